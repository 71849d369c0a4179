//! The comparison as bars: instructions of each event under both hypervisors, and how many of them
//! are below the entries of the virtual interrupt controllers.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::table::{Cost, Outcome, Row};

/// Pixels: the picture's width, the ends of the bars, and the height of an event's two bars.
const WIDTH: i32 = 900;
const LEFT: i32 = 250;
const RIGHT: i32 = WIDTH - 150;
const EVENT: i32 = 40;
const TOP: i32 = 74;
const BOTTOM: i32 = 44;
const BAR: i32 = 14;

/// The end of the axis, in instructions. A longer bar is cut off and says its number.
const LONGEST: f64 = 8000.0;
const STEP: usize = 1000;

const TEXT: RGBColor = RGBColor(0x24, 0x29, 0x2f);
const FAINT: RGBColor = RGBColor(0xd8, 0xde, 0xe4);
/// The colours of hyp and of KVM: below the virtual interrupt controller's entries, and the rest.
const HYP: [RGBColor; 2] = [RGBColor(0x0b, 0x5c, 0xad), RGBColor(0x7f, 0xb2, 0xe5)];
const KVM: [RGBColor; 2] = [RGBColor(0xa8, 0x4b, 0x0c), RGBColor(0xe8, 0xb4, 0x8c)];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws the picture, as SVG.
pub(crate) fn bars(outcome: &Outcome) -> Result<String> {
    let rows: Vec<(&Row, &Cost)> = (outcome.events.iter())
        .filter_map(|row| Some((row, row.kvm.as_ref()?)))
        .collect();
    let height = TOP + EVENT * rows.len() as i32 + BOTTOM;
    let mut svg = String::new();
    {
        let area =
            SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32)).into_drawing_area();
        draw(&area, outcome, &rows, height)
            .and_then(|()| area.present())
            .map_err(|error| anyhow!("cannot draw the bars: {error}"))?;
    }
    Ok(svg)
}

type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Draws the title, the axis and the bars.
fn draw(area: &Area<'_>, outcome: &Outcome, rows: &[(&Row, &Cost)], height: i32) -> Drawn {
    area.fill(&WHITE)?;
    let version = outcome.kvm.as_deref().unwrap_or("");
    let title = "Instructions at EL2 of one event, until it is handled";
    text(area, title, (LEFT, 22), 17.0, HPos::Left)?;

    legend(area, (LEFT, 46), HYP, "hyp: vgic", "rest")?;
    legend(area, (LEFT + 170, 46), KVM, "Linux KVM: vGIC", "rest")?;

    for thousand in (0..=LONGEST as usize).step_by(STEP) {
        let x = place(thousand as f64);
        let line = [(x, TOP - 6), (x, height - BOTTOM + 4)];
        area.draw(&PathElement::new(line, FAINT))?;
        let at = (x, height - BOTTOM + 16);
        text(area, &thousand.to_string(), at, 12.0, HPos::Center)?;
    }
    let note = format!("instructions; smaller is better. KVM of Linux {version}");
    text(area, &note, (LEFT, height - 10), 12.0, HPos::Left)?;

    for (number, (row, kvm)) in (0..).zip(rows) {
        let y = TOP + EVENT * number;
        text(area, &row.event, (LEFT - 10, y + BAR), 13.0, HPos::Right)?;
        let ratio = row.ratio.unwrap_or(0.0);
        let ours = format!("{:.0}", row.hyp.all.instructions);
        let theirs = format!("{:.0}, {ratio:.1} x", kvm.all.instructions);
        bar(area, y, &row.hyp, HYP, &ours)?;
        bar(area, y + BAR + 1, kvm, KVM, &theirs)?;
    }
    Ok(())
}

/// Returns the horizontal place of a number of instructions.
fn place(instructions: f64) -> i32 {
    let part = instructions.min(LONGEST) / LONGEST;
    LEFT + (f64::from(RIGHT - LEFT) * part).round() as i32
}

/// Draws a bar, and its label behind it.
fn bar(area: &Area<'_>, y: i32, cost: &Cost, colors: [RGBColor; 2], label: &str) -> Drawn {
    let (vgic, all) = (cost.inclusive.instructions, cost.all.instructions);
    let (middle, end) = (place(vgic), place(all));
    let part = |from, to, color: RGBColor| {
        area.draw(&Rectangle::new([(from, y), (to, y + BAR)], color.filled()))
    };
    part(LEFT, middle, colors[0])?;
    part(middle, end, colors[1])?;
    if all > LONGEST {
        // Two gaps in the bar say that it goes on.
        for gap in [12, 20] {
            part(end - gap, end - gap + 3, WHITE)?;
        }
    }
    text(area, label, (end + 6, y + BAR / 2), 12.0, HPos::Left)
}

/// Draws a part of the legend: two colours with their names.
fn legend(
    area: &Area<'_>,
    (x, y): (i32, i32),
    colors: [RGBColor; 2],
    vgic: &str,
    rest: &str,
) -> Drawn {
    // As wide as the longer name needs.
    let middle = x + 26 + 7 * vgic.len() as i32;
    for (x, color, name) in [(x, colors[0], vgic), (middle, colors[1], rest)] {
        let corners = [(x, y - 6), (x + 12, y + 6)];
        area.draw(&Rectangle::new(corners, color.filled()))?;
        text(area, name, (x + 17, y), 13.0, HPos::Left)?;
    }
    Ok(())
}

/// Draws a text.
fn text(area: &Area<'_>, text: &str, at: (i32, i32), size: f64, anchor: HPos) -> Drawn {
    let style = ("sans-serif", size)
        .into_font()
        .color(&TEXT)
        .pos(Pos::new(anchor, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::outcome;
    use super::*;

    #[test]
    fn each_event_has_two_bars_with_their_numbers() {
        let svg = bars(&outcome()).unwrap();
        assert!(svg.starts_with("<svg"));
        for text in ["SGI to itself", "500", "2500, 5.0 x"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn a_bar_ends_where_the_axis_does() {
        assert_eq!(place(0.0), LEFT);
        assert_eq!(place(LONGEST), RIGHT);
        assert_eq!(place(2.0 * LONGEST), RIGHT);
    }
}
