//! Images and volumes that are made to lead a container's making astray.

use std::path::Path;

use shim::protocol::*;

use crate::fixture::Sandbox;
use crate::hostile::Hostile;
use crate::security::bind;

/// What an ordinary container must find covered and read-only, in one line each. Values are written
/// back as they are, so that a hole changes nothing on the host.
const LOOK: &str = "for f in keys kcore timer_list; do [ -e /proc/$f ] && head -c 1 /proc/$f | wc -c; done; \
    ls -A /sys/firmware | wc -l; \
    for f in /proc/sys/kernel/core_pattern /proc/sys/vm/swappiness; do \
      v=$(cat $f); (echo \"$v\" > $f) 2>&- && echo writable $f; done; \
    (echo h > /proc/sysrq-trigger) 2>&- && echo writable sysrq; \
    (echo x > /sys/kernel/x) 2>&- && echo writable sys; true";

/// What LOOK says when everything is as it should be.
fn covered() -> String {
    let files = ["keys", "kcore", "timer_list"].iter().filter(|name| Path::new("/proc").join(name).exists());
    files.map(|_| "0\n").chain(["0\n"]).collect()
}

fn refusal(sandbox: &mut Sandbox, spec: ContainerSpec) -> String {
    let mounts = format!("{:?}", spec.mounts);
    let answer = sandbox.connection.call(Request::Create(Box::new(spec)));
    answer.expect_err(&mounts).to_string()
}

/// Makes an image hostile.
type Make<'a> = &'a dyn Fn(Hostile) -> Hostile;

pub(crate) fn an_image_has_real_directories_for_what_the_kernel_shows() {
    let mut sandbox = Sandbox::new();
    let image = || Hostile::at(sandbox.home.path().join("image"));
    let cases: [(&str, &str, Make<'_>); 6] = [
        // The procfs lands on /real, and /dev hides how it was found.
        ("proc", "proc", &|image| image.link("proc", "/dev/p").directory("real").link("dev/p", "/real")),
        ("proc", "proc", &|image| image.directory("dev").link("proc", "real")),
        ("sys", "sysfs", &|image| image.directory("proc").link("sys", "/dev/s")),
        ("dev", "tmpfs", &|image| image.directory("sys").link("dev", "real")),
        ("dev", "tmpfs", &|image| image.link("dev", "/proc/self/cwd")),
        ("sys", "sysfs", &|image| image.directory("dev").file("sys", "")),
    ];
    for (number, (name, kind, make)) in cases.iter().enumerate() {
        make(image());
        let spec = sandbox.script(&format!("n{number}"), "true");
        let failure = sandbox.connection.call(Request::Create(Box::new(spec))).unwrap_err().to_string();
        let wanted = format!(
            "error mounting \"{kind}\" to rootfs at \"/{name}\": filesystem \"{kind}\" must be mounted on ordinary directory"
        );
        assert!(failure.contains(&wanted), "{failure}");
    }
}

pub(crate) fn covers_come_from_no_volume() {
    let mut sandbox = Sandbox::new();
    let dev = Hostile::at(sandbox.home.path().join("dev"))
        .link("null", "/proc/sys/kernel/core_pattern")
        .link("pts", "/proc")
        .link("console", "/proc/sysrq-trigger")
        .character_device("zero", 1, 9);
    let mut spec = sandbox.script("one", LOOK);
    spec.mounts = vec![bind(dev.path(), "/dev")];
    assert_eq!(sandbox.run(spec).1, covered());
    let mut spec = sandbox.script("two", LOOK);
    spec.mounts = vec![bind(&dev.path().join("null"), "/dev/null")];
    let (_, output) = sandbox.run(spec);
    assert!(output.starts_with(&covered()), "{output}");
}

pub(crate) fn nothing_of_a_pod_is_mounted_on_procfs_but_what_lxcfs_emulates() {
    let mut sandbox = Sandbox::new();
    let volume =
        Hostile::at(sandbox.home.path().join("volume")).file("file", "emulated\n").link("out", "/proc");
    Hostile::at(sandbox.home.path().join("image")).link("aside", "/proc/sys").link("up", "/");
    let file = volume.path().join("file");
    let cases = [
        (volume.path(), "/proc", "not of type proc"),
        (volume.path(), "/proc/", "not of type proc"),
        (volume.path(), "/tmp/../proc", "not of type proc"),
        (volume.path(), "/proc/sys", "inside /proc"),
        (volume.path(), "/aside/kernel", "inside /proc"),
        (file.as_path(), "/proc/version", "inside /proc"),
        (file.as_path(), "/proc/keys", "inside /proc"),
        (Path::new("/proc/self"), "/proc", "not of type proc"),
        (volume.path(), "/", "the root of the container"),
        (volume.path(), "/up", "the root of the container"),
    ];
    for (number, (source, destination, why)) in cases.into_iter().enumerate() {
        let mut spec = sandbox.script(&format!("n{number}"), "true");
        spec.mounts = vec![bind(source, destination)];
        let failure = refusal(&mut sandbox, spec);
        assert!(
            failure.contains(&format!("{destination:?} cannot be mounted because it is {why}")),
            "{failure}"
        );
    }
    let mut spec = sandbox.script("through", "true");
    spec.mounts = vec![bind(volume.path(), "/volume"), bind(volume.path(), "/volume/out/sys")];
    let failure = refusal(&mut sandbox, spec);
    assert!(failure.contains("inside /proc"), "{failure}");
    let mut spec = sandbox.script("emulated", &format!("cat /proc/meminfo; {LOOK}"));
    spec.mounts = vec![bind(&file, "/proc/meminfo")];
    assert_eq!(sandbox.run(spec).1, format!("emulated\n{}", covered()));
}

pub(crate) fn the_nodes_own_proc_and_sys_are_covered_where_a_pod_mounts_them() {
    let mut sandbox = Sandbox::new();
    let mut spec = sandbox.script("one", LOOK);
    spec.mounts = vec![bind(Path::new("/proc"), "/proc"), bind(Path::new("/sys"), "/sys")];
    for mount in &mut spec.mounts {
        mount.read_only = true;
    }
    assert_eq!(sandbox.run(spec).1, covered());
    let mut spec = sandbox.script("two", "ls /sys/devices; ls -A /sys/firmware | wc -l");
    let own = Hostile::at(sandbox.home.path().join("own")).file("mine", "").link("virtual", "/sys");
    spec.mounts = vec![bind(own.path(), "/sys/devices")];
    assert_eq!(sandbox.run(spec).1, "mine\nvirtual\n0\n");
}

pub(crate) fn no_file_of_a_volume_holds_up_a_start() {
    let mut sandbox = Sandbox::new();
    let etc = Hostile::at(sandbox.home.path().join("etc")).fifo("passwd").link("group", "/dev/zero");
    let mut spec = sandbox.script("one", "echo $HOME");
    spec.mounts = vec![bind(etc.path(), "/etc")];
    assert_eq!(sandbox.run(spec).1, "/\n");
    let dev = Hostile::at(sandbox.home.path().join("dev")).fifo("pts/ptmx");
    let mut spec = sandbox.script("two", "true");
    (spec.tty, spec.mounts) = (true, vec![bind(dev.path(), "/dev")]);
    assert!(refusal(&mut sandbox, spec).contains("open /dev/pts/ptmx: no such device"));
}

pub(crate) fn a_working_directory_is_made_inside_and_leads_nowhere_else() {
    let mut sandbox = Sandbox::new();
    let outside = Hostile::at(sandbox.home.path().join("outside"));
    let climbing = format!("../../../../../..{}", outside.path().display());
    Hostile::at(sandbox.home.path().join("image"))
        .link("absolute", outside.path())
        .link("climbing", climbing);
    for (id, cwd) in [("one", "/absolute/a"), ("two", "/climbing/a")] {
        let mut spec = sandbox.script(id, "pwd -P");
        spec.cwd = cwd.into();
        assert_eq!(sandbox.run(spec).1, format!("{}/a\n", outside.path().display()));
    }
    for number in 3..64 {
        let mut spec = sandbox.script(&format!("fd{number}"), "true");
        spec.cwd = format!("/proc/self/fd/{number}/../../../..");
        sandbox.connection.call(Request::Create(Box::new(spec))).unwrap();
        let started = sandbox.connection.call(Request::Start { id: format!("fd{number}") });
        let failure = started.unwrap_err().to_string();
        assert!(failure.contains("chdir to cwd") || failure.contains("outside of container"), "{failure}");
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0, "nothing was made outside");
}
