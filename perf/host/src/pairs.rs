//! Loads in pairs: one, the other, and again, and the ratio of each two that ran right after one another. What
//! disturbs the machine for longer than that disturbs both.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use perf_host::threads::{self, Load, Sample};

/// How long a load runs at a time.
const SLICE: Duration = Duration::from_millis(25);

/// Pairs after which both loads are made anew, at other addresses: where in memory something lies is chance, and
/// can be worth a fifth. Even, so that each is first as often as the other.
const PAIRS_OF_A_PLACE: usize = 2;

/// Two loads whose costs are compared: nanoseconds of a thread for one that was accepted.
const PAIRS: [(&str, &str); 6] = [
    ("lpi_stress/1/1/1/spread", "lpi_stress/16/16/16/spread"),
    ("lpi_stress/one_word/shared", "lpi_stress/one_word/alone"),
    (
        "inject_msi/pending/while_moving/1_threads",
        "inject_msi/pending/to_distinct_vcpus/1_threads",
    ),
    (
        "inject_msi/pending/to_distinct_vcpus/2_threads",
        "inject_msi/pending/to_distinct_vcpus/1_threads",
    ),
    (
        "lpi_lookup/64k/borrowed/radix/2_threads",
        "lpi_lookup/64k/borrowed/radix/1_threads",
    ),
    // What the machine itself makes of two threads that only read.
    (
        "lpi_lookup/64k/borrowed/two_loads/2_threads",
        "lpi_lookup/64k/borrowed/two_loads/1_threads",
    ),
];

/// Pairs that are needed for a median.
const ENOUGH: usize = 15;

/// For each pair, `one to other`: the median of the ratios, between what it lies with a confidence of 95 %, and
/// the median nanoseconds of both; for about `time` in all.
///
/// Pairs in which a thread had to wait for a CPU are left out, unless the machine is too busy for others: then
/// threads that are to meet do not.
pub(crate) fn compare(time: Duration) -> Map<String, Value> {
    let mut pairs = Map::new();
    for (one, other) in PAIRS {
        eprintln!("{one} to {other}");
        // Kept until all is done, so that what is made next lies elsewhere.
        let mut places = Vec::new();
        let began = Instant::now();
        let share = time / PAIRS.len() as u32;
        let (mut undisturbed, mut all) = (Vec::new(), Vec::new());
        // On a busy machine it takes longer to find enough.
        while all.len() < ENOUGH
            || began.elapsed() < share
            || (undisturbed.len() < ENOUGH && began.elapsed() < 3 * share)
        {
            // Whichever is first has the colder caches: they take turns in that too.
            let first = all.len() % 2;
            if all.len().is_multiple_of(PAIRS_OF_A_PLACE) {
                // They take turns in being made first, too.
                let other_first = places.len() % 2 == 1;
                let mut names = [one, other];
                if other_first {
                    names.reverse();
                }
                let mut place = names.map(|name| load(name).make());
                if other_first {
                    place.reverse();
                }
                places.push(place);
            }
            let runs = places.last().expect("one is made before the first pair");
            let mut samples = [Sample::default(); 2];
            for turn in [first, 1 - first] {
                samples[turn] = runs[turn](SLICE);
            }
            let costs = samples.map(|sample| cost(&sample));
            all.push(costs);
            if samples.iter().all(Sample::undisturbed) {
                undisturbed.push(costs);
            }
        }
        let disturbed = undisturbed.len() < ENOUGH;
        let costs = if disturbed { &all } else { &undisturbed };
        let of =
            |value: fn(&[f64; 2]) -> f64| median(&mut costs.iter().map(value).collect::<Vec<_>>());
        let (low, ratio, high) = of(|[one, other]| one / other);
        let value = json!({
            "ratio": ratio,
            "low": low,
            "high": high,
            "nanoseconds": [of(|costs| costs[0]).1, of(|costs| costs[1]).1],
            "pairs": costs.len(),
            "disturbed": disturbed,
        });
        pairs.insert(format!("{one} to {other}"), value);
    }
    pairs
}

fn load(name: &str) -> Load {
    let (group, name) = name.split_once('/').expect("a group");
    threads::loads(group, 2)
        .into_iter()
        .find(|load| load.name == name)
        .expect("a load of ours")
}

/// Nanoseconds of a thread for one.
fn cost(sample: &Sample) -> f64 {
    f64::from(sample.accepted.threads) * 1e9 / sample.accepted.rate
}

/// The median with its confidence interval, by the ranks that the binomial distribution gives.
fn median(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let (count, half) = (values.len(), values.len() / 2);
    let margin = (0.98 * (count as f64).sqrt()).ceil() as usize;
    let low = half.saturating_sub(margin);
    let high = (half + margin).min(count - 1);
    (values[low], values[half], values[high])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_load_of_a_pair_exists() {
        for (one, other) in PAIRS {
            assert_ne!(load(one).name, load(other).name);
        }
    }

    #[test]
    fn a_median_lies_inside_its_interval() {
        let mut values: Vec<f64> = (0..101).rev().map(f64::from).collect();
        assert_eq!(median(&mut values), (40.0, 50.0, 60.0));
        assert_eq!(median(&mut [1.0, 1.0, 1.0]), (1.0, 1.0, 1.0));
    }
}
