//! What the process costs, as every Prometheus client library tells it: from `/proc`, and nothing where there is none.
//!
//! Source: proc(5); the names are those of Prometheus' guide for client libraries, "process metrics".

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::param::clock_ticks_per_second;

use super::catalog::FAMILIES;
use crate::family::Description;

/// Reads `/proc` whenever it is asked.
#[derive(Debug)]
pub(super) struct Process;

/// Of `/proc/self/stat`: times are in clock ticks.
struct Stat {
    cpu: f64,
    /// After the start of the machine.
    started: f64,
}

// === impl Process ===

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut tell = |name: &'static str, number: Option<f64>| match number {
            None => Ok(()),
            Some(number) => {
                let described = FAMILIES.iter().find(|family| family.name == name);
                let (counter, gauge) = (ConstCounter::new(number), ConstGauge::new(number));
                let metric: &dyn EncodeMetric = if name == CPU { &counter } else { &gauge };
                let (name, unit) = described.map_or((name, None), Description::parts);
                let help = format!("{}.", described.map_or("", |described| described.meaning));
                metric.encode(encoder.encode_descriptor(name, &help, unit.as_ref(), metric.metric_type())?)
            }
        };
        let stat = Stat::read();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        tell(CPU, stat.as_ref().map(|stat| stat.cpu))?;
        tell("process_max_fds", max_files())?;
        tell("process_open_fds", open_files())?;
        tell("process_resident_memory_bytes", bytes(&status, "VmRSS:"))?;
        tell("process_start_time_seconds", stat.and_then(|stat| Some(booted()? + stat.started)))?;
        tell("process_virtual_memory_bytes", bytes(&status, "VmSize:"))
    }
}

const CPU: &str = "process_cpu_seconds";

/// Without the descriptor that counting takes.
fn open_files() -> Option<f64> {
    let files = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(files.saturating_sub(1) as f64)
}

fn max_files() -> Option<f64> {
    // Elsewhere none of them is told.
    fs::exists("/proc/self/fd").ok().filter(|exists| *exists)?;
    Some(crate::process::open_files() as f64)
}

/// Of a line such as `VmRSS:   123 kB`.
fn bytes(status: &str, name: &str) -> Option<f64> {
    let number = status.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix(" kB")?;
    Some(number.parse::<f64>().ok()? * 1024.0)
}

/// When the machine started, in seconds since 1970.
fn booted() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

// === impl Stat ===

impl Stat {
    fn read() -> Option<Self> {
        Stat::parse(&fs::read_to_string("/proc/self/stat").ok()?, clock_ticks_per_second() as f64)
    }

    /// The second field, a name in parentheses, may hold anything; the others are numbers.
    fn parse(text: &str, ticks: f64) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let seconds = |field: usize| Some(fields.get(field - 3)?.parse::<f64>().ok()? / ticks);
        Some(Stat { cpu: seconds(14)? + seconds(15)?, started: seconds(22)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_process_cannot_lead_astray() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 4 0 12345 1 1";
        let stat = Stat::parse(text, 100.0).unwrap();
        assert_eq!((stat.cpu, stat.started), (3.0, 123.45));
        assert!(Stat::parse("7 (a) S 1", 100.0).is_none() && Stat::parse("", 100.0).is_none());
        assert_eq!(bytes("VmSize:\t  20 kB\nVmRSS:\t  10 kB\n", "VmRSS:"), Some(10_240.0));
    }
}
