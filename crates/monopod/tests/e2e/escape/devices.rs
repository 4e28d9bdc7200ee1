//! Ways out through devices and through the kernel's own file systems.

use serde_json::json;

use super::world::{World, check, shell};
use super::{Attack, Outcome};

pub(crate) fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            name: "device-nodes",
            attack: "make device nodes of disks, memory and the kernel log, and open them",
            class: "",
            stopped_by: "the device cgroup allows the usual pseudo devices only",
            run: device_nodes,
        },
        Attack {
            name: "core-pattern",
            attack: "write a program of one's own to /proc/sys/kernel/core_pattern",
            class: "",
            stopped_by: "/proc/sys is read-only",
            run: core_pattern,
        },
        Attack {
            name: "magic-keys",
            attack: "restart the machine through /proc/sysrq-trigger",
            class: "",
            stopped_by: "/proc/sysrq-trigger, bus, fs and irq are read-only",
            run: magic_keys,
        },
        Attack {
            name: "uevent-helper",
            attack: "have the kernel run a program through /sys/kernel/uevent_helper",
            class: "",
            stopped_by: "/sys is read-only",
            run: uevent_helper,
        },
        Attack {
            name: "release-agent",
            attack: "write a release_agent, in the given cgroups or in ones mounted anew",
            class: "CVE-2022-0492",
            stopped_by: "cgroups are read-only, mount is refused by seccomp and for want of SYS_ADMIN",
            run: release_agent,
        },
        Attack {
            name: "masked-paths",
            attack: "read the memory, keys, timers and power meters of the host in /proc and /sys",
            class: "CVE-2020-8694",
            stopped_by: "masked as containerd masks them",
            run: masked_paths,
        },
        Attack {
            name: "cgroups-of-others",
            attack: "see or change the cgroups of the host and of other Pods",
            class: "",
            stopped_by: "a container sees its own cgroup as the root, read-only",
            run: cgroups_of_others,
        },
        Attack {
            name: "file-systems-mounted",
            attack: "mount a file system, with and without SYS_ADMIN",
            class: "",
            stopped_by: "seccomp without the capability; with it the mount stays in the container",
            run: file_systems_mounted,
        },
        Attack {
            name: "namespace-of-the-host-by-name",
            attack: "enter the host's namespaces through descriptors in /proc",
            class: "",
            stopped_by: "setns is refused by seccomp, and no process of the host is in sight",
            run: namespace_of_the_host_by_name,
        },
        Attack {
            name: "kernel-modules-and-clock",
            attack: "load a module, set the clock, read the kernel's log, call BPF",
            class: "",
            stopped_by: "the default seccomp profile and missing capabilities",
            run: kernel_modules_and_clock,
        },
    ]
}

fn device_nodes(world: &World) -> Outcome {
    // Major and minor of the disk that the test runs from, and of memory, ports and the kernel log.
    use std::os::unix::fs::MetadataExt;
    let disk = std::fs::metadata("/").expect("there").dev();
    let (major, minor) = (rustix::fs::major(disk), rustix::fs::minor(disk));
    let script = format!(
        "mkdir -p /d; mknod /d/disk b {major} {minor}; mknod /d/mem c 1 1; mknod /d/port c 1 4; mknod /d/kmsg c 1 11; \
         mknod /d/fuse c 10 229; mknod /d/null c 1 3; \
         for d in disk mem port kmsg fuse; do head -c 1 /d/$d >/dev/null 2>&1 && echo OPENED $d; \
         (exec 3<>/d/$d) 2>/dev/null && echo OPENED $d; done; head -c 1 /d/null; ls /dev | tr '\\n' ' '; exit 0"
    );
    let logs = world.script("device-nodes", &script).clean()?;
    let devices = logs
        .split_whitespace()
        .any(|name| name.starts_with("sd") || name.starts_with("vd") || name == "kmsg" || name == "mem");
    check(!logs.contains("OPENED") && !devices, &logs)
}

fn written(world: &World, name: &str, paths: &[&str]) -> Outcome {
    let script = format!(
        "for f in {}; do [ -e $f ] || continue; echo 1 2>/dev/null > $f && echo WRITTEN $f; done; \
         mount -o remount,rw /proc/sys 2>/dev/null && echo REMOUNTED; umount /proc/sys 2>/dev/null && echo UNMOUNTED; echo done",
        paths.join(" ")
    );
    let logs = world.script(name, &script).clean()?;
    check(logs.trim() == "done", &logs)
}

fn core_pattern(world: &World) -> Outcome {
    written(
        world,
        "core-pattern",
        &[
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/modprobe",
            "/proc/sys/vm/overcommit_memory",
            "/proc/sys/net/ipv4/ip_forward",
            "/proc/sys/kernel/hostname",
        ],
    )
}

fn magic_keys(world: &World) -> Outcome {
    written(
        world,
        "magic-keys",
        &[
            "/proc/sysrq-trigger",
            "/proc/bus/pci/00/00.0",
            "/proc/irq/0/smp_affinity",
            "/proc/fs/ext4",
            "/proc/sys/kernel/sysrq",
        ],
    )
}

fn uevent_helper(world: &World) -> Outcome {
    written(
        world,
        "uevent-helper",
        &[
            "/sys/kernel/uevent_helper",
            "/sys/kernel/uevent_seqnum",
            "/sys/power/state",
            "/sys/kernel/profiling",
            "/sys/module/*/parameters/*",
        ],
    )
}

fn release_agent(world: &World) -> Outcome {
    let script = "for f in $(find /sys/fs/cgroup -name release_agent -o -name notify_on_release -o -name cgroup.procs 2>/dev/null); do \
                  echo 1 2>/dev/null > $f && echo WRITTEN $f; done; \
                  mkdir -p /g; for c in memory rdma pids cpu; do mount -t cgroup -o $c cgroup /g 2>/dev/null && echo MOUNTED; done; \
                  unshare -UrmC sh -c 'mount -t cgroup -o memory cgroup /g && echo MOUNTED' 2>/dev/null; \
                  mkdir /sys/fs/cgroup/x 2>/dev/null && echo MADE; echo done";
    let logs = world.script("release-agent", script).clean()?;
    check(logs.trim() == "done", &logs)
}

fn masked_paths(world: &World) -> Outcome {
    let script = "for f in kcore keys latency_stats timer_list timer_stats sched_debug; do \
                  [ -e /proc/$f ] && [ $(head -c 16 /proc/$f 2>/dev/null | wc -c) != 0 ] && echo READ $f; done; \
                  for d in /proc/asound /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap /proc/interrupts.d; do \
                  [ -d $d ] && [ -n \"$(ls -A $d)\" ] && echo LISTED $d; done; \
                  for d in /sys/devices/system/cpu/cpu*/thermal_throttle; do [ -n \"$(ls -A $d 2>/dev/null)\" ] && echo LISTED $d; done; echo done";
    let logs = world.script("masked-paths", script).clean()?;
    check(logs.trim() == "done", &logs)
}

fn cgroups_of_others(world: &World) -> Outcome {
    let script = "cat /proc/self/cgroup; echo --; find /sys/fs/cgroup -maxdepth 3 -type d; cat /proc/self/mountinfo | grep cgroup";
    let logs = world.script("cgroups-of-others", script).clean()?;
    check(!logs.contains("kubepods") && !logs.contains("monopod"), &logs)
}

fn file_systems_mounted(world: &World) -> Outcome {
    let logs = world.script("file-systems-mounted", "mkdir -p /m; for t in tmpfs proc sysfs overlay cgroup2; do mount -t $t x /m 2>/dev/null && echo MOUNTED $t; done; mount --bind /proc /m 2>/dev/null && echo MOUNTED; echo done").clean()?;
    check(logs.trim() == "done", &logs)?;
    let mut container = shell("mkdir -p /m; mount -t tmpfs x /m && echo inside; ls /m; exit 0");
    container["securityContext"] = json!({"capabilities": {"add": ["SYS_ADMIN"]}});
    world.run("file-systems-mounted-inside", json!({"containers": [container]})).clean().map(drop)
}

fn namespace_of_the_host_by_name(world: &World) -> Outcome {
    let script = "for n in mnt net pid uts ipc cgroup user; do for p in 1 2 $PPID; do \
                  nsenter --$n=/proc/$p/ns/$n true 2>/dev/null && [ $p != 1 ] && echo ENTERED $n; done; done; \
                  ls /proc | grep -c '^[0-9]'; exit 0";
    let logs = world.script("namespace-of-the-host-by-name", script).clean()?;
    check(!logs.contains("ENTERED"), &logs)
}

fn kernel_modules_and_clock(world: &World) -> Outcome {
    let script = "date -s 2001-01-01 >/dev/null 2>&1; [ $(date +%Y) = 2001 ] && echo SET; dmesg 2>/dev/null | head -c 1 | grep -q . && echo READ; \
                  hostname other 2>/dev/null && echo NAMED; echo x > /tmp.ko; insmod /tmp.ko 2>&1 | grep -qi 'invalid module format' && echo LOADED; \
                  chroot / true && echo rooted; nice -n -5 true 2>/dev/null; ip link add d type dummy 2>/dev/null && echo LINK; \
                  ip addr add 10.9.9.9/32 dev eth0 2>/dev/null && echo ADDRESS; exit 0";
    let logs = world.script("kernel-modules-and-clock", script).clean()?;
    let shouted =
        logs.lines().any(|line| line.chars().all(|letter| letter.is_ascii_uppercase()) && !line.is_empty());
    check(!shouted, &logs)
}
