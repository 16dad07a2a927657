//! Figures in columns.

/// Columns as wide as they must be; the first to the left, figures to the right.
pub(crate) fn table(heads: &str, rows: impl Iterator<Item = Vec<String>>) -> String {
    let heads: Vec<String> = heads.split('|').map(str::to_owned).collect();
    let rows: Vec<Vec<String>> = [heads].into_iter().chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let mut text = "\n".to_owned();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            text += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        text.push('\n');
    }
    text
}

/// A figure that may be missing.
pub(crate) fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}
