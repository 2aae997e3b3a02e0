//! What the measurements were taken on, as far as Linux and git tell.

use std::process::{Command, Stdio};

/// Clock ticks in the accounts that Linux gives to programs; its own clock may be another.
pub(super) const TICKS_PER_SECOND: f64 = 100.0;

/// The processor, its cores, and the vector instructions that make a difference.
pub(crate) fn describe() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| cpuinfo_field(&info, name).unwrap_or("unknown").to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = format!("{} (family {}, model {})", field("model name"), field("cpu family"), field("model"));
    let flags = field("flags");
    let flags: Vec<&str> = flags.split(' ').filter(|flag| WORTH_SAYING.contains(flag)).collect();
    let system = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    format!("{model}, {cores} cores, {}, {system}", flags.join(" "))
}

const WORTH_SAYING: [&str; 5] = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile"];

/// The commit that candlewick is built from; "dirty" if it was changed since.
pub(super) fn revision() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty"]).current_dir(crate::root()).stderr(Stdio::null());
    let output = git.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// CPU seconds that all programs together have used since the machine started, and what its host took away.
pub(super) fn cpu_seconds() -> Option<f64> {
    stat_cpu_seconds(&std::fs::read_to_string("/proc/stat").ok()?)
}

/// The first line of /proc/stat: user, nice, system, idle, waiting for disks, interrupts, soft ones, stolen.
fn stat_cpu_seconds(stat: &str) -> Option<f64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
    let ticks = fields.map(|field| field.parse().ok()).collect::<Option<Vec<f64>>>()?;
    let is_idle = |&(index, _): &(usize, &f64)| index == 3 || index == 4;
    let busy: f64 = ticks.iter().enumerate().filter(|field| !is_idle(field)).map(|(_, ticks)| ticks).sum();
    Some(busy / TICKS_PER_SECOND)
}

fn cpuinfo_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let fields = info.lines().filter_map(|line| line.split_once(':'));
    fields
        .map(|(key, value)| (key.trim(), value.trim()))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_not_used_time() {
        let stat = "cpu  100 20 300 4000 50000 6 70 4 9 9\ncpu0 1 2 3 4 5 6 7 8 9 9\n";
        assert_eq!(stat_cpu_seconds(stat), Some(5.0));
        assert_eq!(stat_cpu_seconds("intr 1 2 3\n"), None);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let info = "model name\t: A: B\nmodel\t\t: 17\n";
        assert_eq!(cpuinfo_field(info, "model"), Some("17"));
        assert_eq!(cpuinfo_field(info, "model name"), Some("A: B"));
        assert_eq!(cpuinfo_field(info, "flags"), None);
    }
}
