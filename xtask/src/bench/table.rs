//! The table that each benchmark prints: figure, anchor, ratio, goal.

use super::{machine, say};

/// Rows so far.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<[String; 5]>);

impl Table {
    /// A row whose ratio should be at least `goal`.
    pub(super) fn at_least(&mut self, what: &str, figure: f64, anchor: f64, unit: &str, goal: f64) {
        let ratio = figure / anchor;
        self.push(
            what,
            &number(figure, unit),
            &number(anchor, unit),
            &format!("{ratio:.2}"),
            &format!(">= {goal}"),
            ratio >= goal,
        );
    }

    /// A row whose ratio should be at most `goal`.
    pub(super) fn at_most(&mut self, what: &str, figure: f64, anchor: f64, unit: &str, goal: f64) {
        let ratio = figure / anchor;
        self.push(
            what,
            &number(figure, unit),
            &number(anchor, unit),
            &format!("{ratio:.3}"),
            &format!("<= {goal}"),
            ratio <= goal,
        );
    }

    /// A row without anchor whose figure should be at most `goal`.
    pub(super) fn limit(&mut self, what: &str, figure: f64, unit: &str, goal: f64) {
        self.push(
            what,
            &number(figure, unit),
            "",
            "",
            &format!("<= {}", number(goal, unit)),
            figure <= goal,
        );
    }

    /// A row that only tells.
    pub(super) fn tell(&mut self, what: &str, figure: &str) {
        self.0.push([what, figure, "", "", ""].map(str::to_owned));
    }

    fn push(&mut self, what: &str, figure: &str, anchor: &str, ratio: &str, goal: &str, met: bool) {
        let met = if met { "met" } else { "MISSED" };
        self.0
            .push([what, figure, anchor, ratio, &format!("{goal} {met}")].map(str::to_owned));
    }

    /// Prints all rows and the load at the end.
    pub(super) fn print(self) {
        let head = ["what", "figure", "anchor", "ratio", "goal"].map(str::to_owned);
        let width = |column: usize| {
            let cells = self.0.iter().map(|row| row[column].len());
            cells.chain([head[column].len()]).max().unwrap_or(0)
        };
        let widths = [0, 1, 2, 3, 4].map(width);
        for row in std::iter::once(&head).chain(&self.0) {
            let cells = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:<width$}"));
            say(cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        say(&format!("# load at the end {}", machine::load()));
    }
}

fn number(value: f64, unit: &str) -> String {
    if value < 10.0 {
        format!("{value:.2} {unit}")
    } else if value < 100.0 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}
