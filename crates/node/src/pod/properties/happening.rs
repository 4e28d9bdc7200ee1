//! What may happen to a Pod, and how often each is drawn.

use proptest::prelude::*;

use crate::pod::probe::ProbeKind;

/// Something random that happens to the Pod. Numbers choose among what there is.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// An action is carried out; its answer is on its way.
    Do(usize),
    /// An action is carried out and is still to be.
    DoTwice(usize),
    /// An answer or event arrives.
    Hear(usize),
    /// It arrives and will arrive again.
    HearAgain(usize),
    /// It never arrives.
    Lose(usize),
    /// Everything is carried out and heard.
    Settle,
    /// A status patch gets through.
    Write,
    Exit(usize, i32),
    SandboxDies,
    Pass(i64),
    Probe(usize, ProbeKind, bool),
    Fail(&'static str),
    Audit,
    /// The worker panics: its tasks are dropped, but for what the runtime has begun.
    Panic,
    /// The node dies. Bits: what was still carried out.
    Crash(u32),
    /// The machine is switched off and on; `true`: nothing is found of what was there.
    PowerOff(bool),
    Delete(i64),
    Evict,
    /// Somebody wishes another size.
    Wish(u8),
}

pub(super) fn happening() -> impl Strategy<Value = Happening> {
    let kind = prop_oneof![Just(ProbeKind::Startup), Just(ProbeKind::Liveness), Just(ProbeKind::Readiness)];
    prop_oneof![
        12 => any::<usize>().prop_map(Happening::Do),
        2 => any::<usize>().prop_map(Happening::DoTwice),
        12 => any::<usize>().prop_map(Happening::Hear),
        3 => any::<usize>().prop_map(Happening::HearAgain),
        2 => any::<usize>().prop_map(Happening::Lose),
        6 => Just(Happening::Settle),
        5 => Just(Happening::Write),
        8 => (0..5_usize, prop_oneof![3 => Just(0), 1 => Just(1), 1 => Just(137)])
            .prop_map(|(at, code)| Happening::Exit(at, code)),
        1 => Just(Happening::SandboxDies),
        6 => (0..400_i64).prop_map(Happening::Pass),
        3 => (0..5_usize, kind, any::<bool>()).prop_map(|(at, kind, good)| Happening::Probe(at, kind, good)),
        3 => prop_oneof![Just("image"), Just("start"), Just("config"), Just("hook"), Just("kill"), Just("sandbox"), Just("volumes"),
            Just("room"), Just("keep"), Just("resize")]
            .prop_map(Happening::Fail),
        2 => Just(Happening::Audit),
        1 => Just(Happening::Panic),
        3 => any::<u32>().prop_map(Happening::Crash),
        1 => any::<bool>().prop_map(Happening::PowerOff),
        1 => prop_oneof![Just(0), Just(5), Just(30)].prop_map(Happening::Delete),
        1 => Just(Happening::Evict),
        3 => (1..9_u8).prop_map(Happening::Wish),
    ]
}
