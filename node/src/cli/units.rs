//! Figures as people read them.

const CELLS: u64 = 24;

/// `1.5 GiB`.
pub(super) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

/// `3 h 12 min`.
pub(super) fn seconds(count: u64) -> String {
    let (days, hours, minutes) = (count / 86_400, count / 3600 % 24, count / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{count} s"),
        (0, 0, _) => format!("{minutes} min {} s", count % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// `[######··················]`: how much of `whole` is used.
pub(super) fn bar(used: u64, whole: u64) -> String {
    let share = if whole == 0 { 0.0 } else { used as f64 / whole as f64 };
    // A little of something is one cell, so that it is seen.
    let full =
        ((share * CELLS as f64).round() as u64).clamp(u64::from(used > 0 && whole > 0), CELLS) as usize;
    format!("[{}{}]", "#".repeat(full), "·".repeat(CELLS as usize - full))
}

/// `text` in at most `width` characters.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_right() {
        assert_eq!(
            [0, 1023, 1024, 1536 << 20, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.5 GiB", "16384.0 PiB"]
        );
        assert_eq!(
            [0, 59, 61, 7200, 90_000].map(seconds),
            ["0 s", "59 s", "1 min 1 s", "2 h 0 min", "1 d 1 h"]
        );
    }

    #[test]
    fn a_bar_never_leaves_its_frame() {
        let cells = |used, whole| bar(used, whole).matches('#').count();
        assert_eq!([cells(0, 0), cells(5, 0), cells(0, 9), cells(1, 1 << 40)], [0, 0, 0, 1]);
        assert_eq!([cells(1, 2), cells(2, 2), cells(9, 2)], [12, 24, 24]);
        assert_eq!(bar(9, 2).chars().count(), 26);
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}
