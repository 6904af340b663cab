//! The processes around this one: ends those that it has started, such as cargo and pip, and returns which
//! signals it was started to ignore.

use rustix::process::{Pid, Signal, kill_process};
use std::{fs, process};

/// Ends all descendants of this process, best effort. A compiler that goes on after its user has stopped
/// training only holds locks and files.
pub fn end() {
    for id in descendants(process::id()) {
        if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
            // It may have ended in the meantime.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Returns true if this process was started with `signal` ignored, as `nohup` does for SIGHUP.
pub fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Returns the ids of all descendants of a process, parents first.
fn descendants(id: u32) -> Vec<u32> {
    let parents = processes();
    let mut all = vec![id];
    let mut next = 0;
    while next < all.len() {
        let parent = all[next];
        all.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        next += 1;
    }
    all.split_off(1)
}

/// Returns the id of every process and that of its parent. Empty where there is no `/proc`.
fn processes() -> Vec<(u32, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let id: u32 = entry.file_name().to_str()?.parse().ok()?;
            // ID (NAME) STATE PARENT ...; the name may contain spaces and parentheses.
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((id, parent))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{process::Command, thread, time::Duration};

    #[test]
    fn children_of_children_are_found() {
        let mut child = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let found = loop {
            let found = descendants(child.id());
            if !found.is_empty() {
                break found;
            }
            thread::sleep(Duration::from_millis(5));
        };
        let own = descendants(process::id());
        assert!(own.contains(&child.id()) && own.contains(&found[0]), "{own:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        kill_process(Pid::from_raw(found[0] as i32).unwrap(), Signal::KILL).unwrap();
    }
}
