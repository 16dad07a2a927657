//! Logging: the journal with structured fields under systemd, readable lines on a terminal, JSON
//! on request. Everything goes through the `log` crate; fields are its key-values.

use std::io::Write;
use std::str::FromStr;
use std::time::SystemTime;

use log::kv::{Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};

use crate::Error;
use crate::config::{LogConfig, LogFormat};

/// Installs the logger for the whole process.
pub fn init(config: &LogConfig) -> Result<(), Error> {
    let level = LevelFilter::from_str(&config.level).map_err(|_| {
        Error::Logging(format!(
            "`log.level` is `{}`; it must be error, warn, info, debug or trace",
            config.level
        ))
    })?;
    let format = match config.format {
        LogFormat::Auto if systemd_journal_logger::connected_to_journal() => LogFormat::Journal,
        LogFormat::Auto => LogFormat::Terminal,
        chosen => chosen,
    };
    let installed = match format {
        LogFormat::Journal => systemd_journal_logger::JournalLog::new()
            .map_err(|error| Error::Logging(format!("the journal cannot be reached: {error}")))?
            .with_syslog_identifier("skerry".to_owned())
            .install(),
        LogFormat::Json => log::set_boxed_logger(Box::new(Lines { json: true })),
        _ => log::set_boxed_logger(Box::new(Lines { json: false })),
    };
    installed.map_err(|error| Error::Logging(error.to_string()))?;
    log::set_max_level(level);
    Ok(())
}

/// Lines on standard error, each written in one call.
struct Lines {
    json: bool,
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = if self.json { json_line(record) } else { terminal_line(record) };
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

fn terminal_line(record: &Record<'_>) -> String {
    struct Fields(String);
    impl<'kvs> VisitSource<'kvs> for Fields {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
            let value = value.to_string();
            let quoted = value.is_empty() || value.contains([' ', '"', '\n']);
            let value = if quoted { format!("{value:?}") } else { value };
            self.0.push_str(&format!(" {key}={value}"));
            Ok(())
        }
    }
    let mut fields = Fields(String::new());
    let _ = record.key_values().visit(&mut fields);
    let time = humantime::format_rfc3339_millis(SystemTime::now());
    let message = record.args().to_string().replace('\n', "\\n");
    format!("{time} {:<5} {} {message}{}\n", record.level(), record.target(), fields.0)
}

fn json_line(record: &Record<'_>) -> String {
    struct Fields(serde_json::Map<String, serde_json::Value>);
    impl<'kvs> VisitSource<'kvs> for Fields {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
            let value = value.to_u64().map_or_else(|| value.to_string().into(), serde_json::Value::from);
            self.0.insert(key.to_string(), value);
            Ok(())
        }
    }
    let mut fields = Fields(serde_json::Map::new());
    fields.0.insert("time".into(), humantime::format_rfc3339_millis(SystemTime::now()).to_string().into());
    fields.0.insert("level".into(), record.level().as_str().to_lowercase().into());
    fields.0.insert("target".into(), record.target().into());
    fields.0.insert("message".into(), record.args().to_string().into());
    let _ = record.key_values().visit(&mut fields);
    let mut line = serde_json::Value::Object(fields.0).to_string();
    line.push('\n');
    line
}
