//! CPU time that a program has used.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// CPU time of one process with all its threads; its resolution is one clock tick (10 ms).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// Time spent in the program itself.
    pub user: Duration,
    /// Time the kernel spent for the program.
    pub system: Duration,
}

impl CpuTime {
    /// User and system time together.
    pub fn total(self) -> Duration {
        self.user + self.system
    }

    /// What was used since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }
}

/// CPU time of process `pid` so far, from `/proc/<pid>/stat` (proc(5), fields `utime` and `stime`).
///
/// Children count in their own processes. Fails once the process has been reaped.
pub fn cpu_time(pid: u32) -> Result<CpuTime> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    parse(&stat).with_context(|| format!("{path} reads oddly: {stat}"))
}

fn parse(stat: &str) -> Option<CpuTime> {
    // The second field, the name in parentheses, may itself hold spaces and parentheses.
    let rest = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let per_second = rustix::param::clock_ticks_per_second();
    let time = |ticks: u64| Duration::from_millis(ticks * 1000 / per_second);
    Some(CpuTime {
        user: time(ticks()?),
        system: time(ticks()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_past_a_name_with_parentheses() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 1 1 20 0 1 0";
        let time = parse(stat).expect("the line is whole");
        let tick = 1000 / rustix::param::clock_ticks_per_second();
        assert_eq!(time.user, Duration::from_millis(250 * tick));
        assert_eq!(time.system, Duration::from_millis(50 * tick));
    }

    #[test]
    fn refuses_a_line_cut_short() {
        assert_eq!(parse("7 (a) S 1 2"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn this_process_has_used_some() {
        let before = cpu_time(std::process::id()).expect("this process is alive");
        let mut digest = blake3::Hasher::new();
        let used = loop {
            digest.update(&[7; 1 << 12]);
            let used = cpu_time(std::process::id())
                .expect("this process is alive")
                .since(before);
            if used.total() >= Duration::from_millis(30) {
                break used;
            }
        };
        assert!(used.total() >= used.user);
    }
}
