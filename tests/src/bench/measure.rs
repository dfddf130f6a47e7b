//! CPU time and medians.

use anyhow::{Context as _, Result};
use mantel_tests::lab::cpu_time;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// CPU time of this process so far, all threads, user and system.
pub fn own_cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// CPU time of another process so far, all threads that live, user and system: to the nanosecond where the kernel keeps
/// `/proc/<pid>/task/*/schedstat`, else in clock ticks.
pub fn cpu_of(pid: u32) -> Result<Duration> {
    match by_schedstat(pid) {
        Some(time) => Ok(time),
        None => Ok(cpu_time(pid)?.total()),
    }
}

fn by_schedstat(pid: u32) -> Option<Duration> {
    let mut sum = 0u64;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        sum += text.split_ascii_whitespace().next()?.parse::<u64>().ok()?;
    }
    (sum > 0).then(|| Duration::from_nanos(sum))
}

/// The middle one; of an even number the mean of the two in the middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> Result<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle).context("nothing was measured")?;
    if values.len().is_multiple_of(2) {
        return Ok(f64::midpoint(values[middle - 1], upper));
    }
    Ok(upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]).ok(), Some(2.0));
        assert_eq!(median([4.0, 1.0]).ok(), Some(2.5));
        assert!(median([]).is_err());
    }

    #[test]
    fn both_ways_to_ask_agree() {
        let before = own_cpu();
        let of_pid = cpu_of(std::process::id()).expect("this process lives");
        assert!(of_pid + Duration::from_millis(50) >= before);
    }
}
