//! Reading Prometheus' text exposition format, as far as scenarios need it.

/// The value of a line of the text exposition format when it is a sample of `name` with `labels`.
pub(crate) fn sample(line: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (present, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.rsplit_once('}')?,
        None => ("", rest),
    };
    if !value.starts_with(' ') {
        return None;
    }
    let present = format!(",{present}");
    let all = labels.iter().all(|(key, value)| present.contains(&format!(",{key}=\"{value}\"")));
    if !all {
        return None;
    }
    value.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::sample;

    #[test]
    fn a_sample_is_found_by_name_and_labels() {
        let line = "skerry_x_total{site=\"default\",status=\"2xx\"} 3";
        assert_eq!(sample(line, "skerry_x_total", &[]), Some(3.0));
        let labels = [("status", "2xx"), ("site", "default")];
        assert_eq!(sample(line, "skerry_x_total", &labels), Some(3.0));
        assert_eq!(sample(line, "skerry_x_total", &[("status", "5xx")]), None);
        assert_eq!(sample(line, "skerry_x", &[]), None);
        assert_eq!(sample("skerry_y 1.5", "skerry_y", &[]), Some(1.5));
        assert_eq!(sample("# TYPE skerry_y gauge", "skerry_y", &[]), None);
    }
}
