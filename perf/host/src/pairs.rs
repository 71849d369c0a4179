//! Loads in pairs, run alternately, and the ratio of each two successive runs. A disturbance longer
//! than a pair affects both loads.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use perf_host::threads::{self, Load, Sample};

/// Duration of one run of a load.
const SLICE: Duration = Duration::from_millis(25);

/// Pairs before both loads are made anew, at other addresses: the place in memory is chance, and
/// can change a cost by a fifth. An even number lets each load be first equally often.
const PAIRS_OF_A_PLACE: usize = 2;

/// Pairs of loads with costs to compare, in nanoseconds of a thread for an accepted operation.
const PAIRS: [(&str, &str); 7] = [
    ("lpi_stress/1/1/1/spread", "lpi_stress/16/16/16/spread"),
    ("lpi_stress/1/1/1/spread", "lpi_stress/one_word/shared"),
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
    // The machine's own cost of two threads reading.
    (
        "lpi_lookup/64k/borrowed/two_loads/2_threads",
        "lpi_lookup/64k/borrowed/two_loads/1_threads",
    ),
];

/// Number of pairs needed for a median.
const ENOUGH: usize = 15;

/// Returns for each pair, as `one to other`, what [`compare_two`] returns. Runs for about `time` in
/// all.
pub(crate) fn compare(time: Duration) -> Map<String, Value> {
    let pairs = PAIRS.map(|(one, other)| {
        eprintln!("{one} to {other}");
        let value = compare_two(one, other, time / PAIRS.len() as u32);
        (format!("{one} to {other}"), value)
    });
    pairs.into_iter().collect()
}

/// Runs two loads in turns for about `share`. Returns the median of the ratios with its 95 %
/// confidence interval, and for both loads the median nanoseconds, and the median number of
/// accepted operations for one that is delivered: 0 if the load delivers none.
///
/// Pairs with a thread waiting for a CPU are left out, unless the machine is too busy for
/// undisturbed pairs. On a machine that busy, threads meant to run at once do not.
pub(crate) fn compare_two(one: &str, other: &str, share: Duration) -> Value {
    // Kept until the end: each next load gets other addresses.
    let mut places = Vec::new();
    let began = Instant::now();
    let (mut undisturbed, mut all) = (Vec::new(), Vec::new());

    // A busy machine needs longer for enough pairs.
    while all.len() < ENOUGH
        || began.elapsed() < share
        || (undisturbed.len() < ENOUGH && began.elapsed() < 3 * share)
    {
        // The first load has the colder caches: the loads alternate in running first.
        let first = all.len() % 2;

        if all.len().is_multiple_of(PAIRS_OF_A_PLACE) {
            // The loads also alternate in being made first.
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

        let run = samples.map(|sample| (cost(&sample), accepted_for_one(&sample)));
        all.push(run);
        if samples.iter().all(Sample::undisturbed) {
            undisturbed.push(run);
        }
    }

    let disturbed = undisturbed.len() < ENOUGH;
    let runs = if disturbed { &all } else { &undisturbed };
    let of = |value: fn(&Runs) -> f64| median(&mut runs.iter().map(value).collect::<Vec<_>>());
    let (low, ratio, high) = of(|[one, other]| one.0 / other.0);

    json!({
        "ratio": ratio,
        "low": low,
        "high": high,
        "nanoseconds": [of(|runs| runs[0].0).1, of(|runs| runs[1].0).1],
        "accepted_for_one": [of(|runs| runs[0].1).1, of(|runs| runs[1].1).1],
        "pairs": runs.len(),
        "disturbed": disturbed,
    })
}

fn load(name: &str) -> Load {
    let (group, name) = name.split_once('/').expect("a group");
    threads::loads(group, 2)
        .into_iter()
        .find(|load| load.name == name)
        .expect("a load of ours")
}

/// Cost of an accepted operation, and accepted operations for one delivered, of both loads of a
/// pair.
type Runs = [(f64, f64); 2];

/// Returns the nanoseconds of a thread for an accepted operation.
fn cost(sample: &Sample) -> f64 {
    f64::from(sample.accepted.threads) * 1e9 / sample.accepted.rate
}

/// Returns the number of accepted operations for one that is delivered, 0 if none is.
fn accepted_for_one(sample: &Sample) -> f64 {
    let Sample {
        accepted,
        delivered,
        ..
    } = sample;
    match delivered.operations {
        0 => 0.0,
        delivered => accepted.operations as f64 / delivered as f64,
    }
}

/// Returns the median with its confidence interval, by the ranks of the binomial distribution.
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
