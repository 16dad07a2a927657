//! Figures against their targets, as tables and as JSON.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

/// What a figure is to be.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    Most(f64),
    Least(f64),
}

/// A figure, and whether it is what it is to be.
#[derive(Serialize)]
pub(crate) struct Figure {
    figure: String,
    value: f64,
    unit: &'static str,
    target: Option<String>,
    reached: Option<bool>,
}

impl Figure {
    pub(crate) fn plain(figure: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { figure: figure.into(), value, unit, target: None, reached: None }
    }

    pub(crate) fn to_be(target: Target, figure: impl Into<String>, value: f64, unit: &'static str) -> Self {
        let (target, reached) = match target {
            Target::Most(most) => (format!("<= {most}"), value <= most),
            Target::Least(least) => (format!(">= {least}"), value >= least),
        };
        Self { target: Some(target), reached: Some(reached), ..Self::plain(figure, value, unit) }
    }

    fn row(&self) -> Vec<String> {
        let reached = self.reached.map_or("", |reached| if reached { "yes" } else { "NO" });
        vec![
            self.figure.clone(),
            number(self.value),
            self.unit.to_owned(),
            self.target.clone().unwrap_or_default(),
            reached.to_owned(),
        ]
    }
}

/// The figures as a table, and how many targets are reached.
pub(crate) fn figures(figures: &[Figure]) -> String {
    let judged: Vec<bool> = figures.iter().filter_map(|figure| figure.reached).collect();
    let reached = judged.iter().filter(|reached| **reached).count();
    let rows = figures.iter().map(Figure::row);
    let table = table(&["figure", "measured", "", "target", "reached"], rows);
    format!("{table}\n{reached} of {} targets reached", judged.len())
}

/// Columns as wide as they must be; the first to the left, the others to the right.
pub(crate) fn table(heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(heads).chain(rows).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let mut text = String::from("\n");
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).unwrap_or(0);
            line += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Three digits or more: as many after the point as that takes.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// The middle value, or the mean of the two in the middle; none of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    Some(if values.len() % 2 == 1 { upper } else { f64::midpoint(values[values.len() / 2 - 1], upper) })
}

/// Writes a report to `file`, else to `bench/NAME.json` in cargo's target folder, which is three above
/// this program (`target/release/deps/NAME-…`). Returns where it is.
pub(crate) fn write(name: &str, file: Option<&Path>, report: &impl Serialize) -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let path = match (file, this.ancestors().nth(3)) {
        (Some(file), _) => file.to_owned(),
        (None, Some(target)) => target.join("bench").join(name).with_extension("json"),
        (None, None) => anyhow::bail!("{} is in no target folder: use --json", this.display()),
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(&path, serde_json::to_vec_pretty(report)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
