//! What `/metrics` shows beside the server's own: every room of the process, and the process itself.
//!
//! Nothing is measured while nobody asks: all of it is read from the kernel or from numbers that are counted
//! anyway, at the moment of the question.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use wire::pki::ServingCertificate;

/// Clock ticks of proc(5) in a second, the same on all architectures this is built for.
const TICKS: f64 = 100.0;

/// Where the numbers are that no room counts.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    pub(crate) data_dir: PathBuf,
    pub(crate) serving: Arc<ServingCertificate>,
}

impl Sources {
    /// Writes them all.
    pub(crate) fn write(&self, out: &mut String) {
        controllers::write_metrics(out);
        scheduler::write_metrics(out);
        store::write_metrics(out);
        self.files(out);
        self.certificates(out);
        process(out);
    }

    /// Under upstream's name for what etcd's file is there; the disk has none there, for a kubelet's is another.
    fn files(&self, out: &mut String) {
        let bytes = fs::metadata(self.data_dir.join("state/store.log")).map_or(0, |file| file.len());
        telemetry::write_gauge(
            "apiserver_storage_size_bytes",
            "Size of the store's file.",
            bytes as f64,
            out,
        );
        if let Ok(disk) = rustix::fs::statvfs(&self.data_dir) {
            let (all, free) = (disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize);
            telemetry::write_gauge(
                "monopod_disk_size_bytes",
                "Size of the data directory's disk.",
                all as f64,
                out,
            );
            telemetry::write_gauge("monopod_disk_free_bytes", "What is free of it.", free as f64, out);
        }
    }

    /// As points in time: how long that is from now Prometheus knows better than a number that was true once.
    fn certificates(&self, out: &mut String) {
        out.push_str(
            "# HELP monopod_certificate_expiration_timestamp_seconds When a certificate ends.\n\
             # TYPE monopod_certificate_expiration_timestamp_seconds gauge\n",
        );
        let authority = fs::read_to_string(self.data_dir.join("pki/ca.crt")).ok();
        let authority = authority.and_then(|pem| Some(wire::pki::validity(&pem).ok()?.1));
        for (name, until) in [("authority", authority), ("apiserver", Some(self.serving.not_after()))] {
            let Some(until) = until else { continue };
            out.push_str(&format!(
                "monopod_certificate_expiration_timestamp_seconds{{name=\"{name}\"}} {}\n",
                until.as_second()
            ));
        }
    }
}

/// Under the names of Prometheus' own clients.
fn process(out: &mut String) {
    let Ok(stat) = fs::read_to_string("/proc/self/stat") else { return };
    let Some(fields) = fields(&stat) else { return };
    let [user, system, started, size] = fields;
    let cpu = (user + system) / TICKS;
    telemetry::write_counter(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        cpu,
        out,
    );
    telemetry::write_gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", size, out);
    if let Some(resident) = resident() {
        telemetry::write_gauge(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            resident,
            out,
        );
    }
    if let Some(booted) = booted() {
        let at = booted + started / TICKS;
        telemetry::write_gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            at,
            out,
        );
    }
    if let Some((open, most)) = crate::processes::descriptors(std::process::id()) {
        telemetry::write_gauge("process_open_fds", "Number of open file descriptors.", open as f64, out);
        telemetry::write_gauge(
            "process_max_fds",
            "Maximum number of open file descriptors.",
            most as f64,
            out,
        );
    }
    let now = Timestamp::now().as_millisecond() as f64 / 1000.0;
    telemetry::write_gauge("monopod_time_seconds", "The clock of the node.", now, out);
}

/// `VmRSS: 1234 kB` of proc(5) status.
fn resident() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<f64>().ok().map(|kibibytes| kibibytes * 1024.0)
}

/// When the kernel began to count, in seconds of the wall clock.
fn booted() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok())
}

/// utime, stime, starttime and vsize of proc(5) stat.
fn fields(stat: &str) -> Option<[f64; 4]> {
    let rest: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
    let mut found = [0.0; 4];
    // The third field is the first after the name.
    for (place, number) in found.iter_mut().zip([14, 15, 22, 23]) {
        *place = rest.get(number - 3)?.trim().parse().ok()?;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_measured_whatever_its_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 12345 1000000 77 18446744073709551615";
        assert_eq!(fields(stat), Some([250.0, 50.0, 12345.0, 1_000_000.0]));
        assert_eq!(fields("7 (a) S"), None);
        let mut out = String::new();
        process(&mut out);
        for name in ["process_cpu_seconds_total ", "process_open_fds ", "process_start_time_seconds "] {
            assert!(out.lines().any(|line| line.starts_with(name)), "{name} in {out}");
        }
    }
}
