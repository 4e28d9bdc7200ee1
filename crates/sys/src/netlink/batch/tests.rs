//! What is written reads back by `nft`, in a network namespace of the test's.

use super::*;
use crate::namespace::{self, Namespaces};

fn nft(words: &[&str], script: &str) -> String {
    let output = crate::command::run("nft", words, script.as_bytes()).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Runs in a namespace of its own, where there is `nft` and somebody who may.
fn apart(test: impl FnOnce() + Send + 'static) {
    if crate::command::find("nft").is_none() || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs nft and root");
        return;
    }
    let inside = move || {
        namespace::unshare(Namespaces::NETWORK).unwrap();
        test();
    };
    std::thread::spawn(inside).join().unwrap();
}

fn at(text: &str) -> (IpAddr, u16) {
    let address: std::net::SocketAddr = text.parse().unwrap();
    (address.ip(), address.port())
}

/// The lines of a table, without those of an order that the kernel chooses.
fn lines(family: &str) -> Vec<String> {
    let text = nft(&["list", "table", family, "t"], "");
    let mut lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    lines.sort();
    lines
}

const EMPTY: &str = "table FAMILY t {
  map m { type TYPE . inet_proto . inet_service : verdict; }
  map p { type inet_proto . inet_service : verdict; }
  set h { type TYPE . TYPE; }
}\n";

/// What `nft` makes of the text is what the batch makes.
fn check(family: TableFamily, build: impl Fn(&mut Batch), by_nft: &str) {
    let (word, kind) = match family {
        TableFamily::Ip => ("ip", "ipv4_addr"),
        TableFamily::Ip6 => ("ip6", "ipv6_addr"),
    };
    let whole = |text: &str| text.replace("FAMILY", word).replace("TYPE", kind);
    nft(&["-f", "-"], &whole(EMPTY));
    let mut batch = Batch::new("t");
    batch.turn_to(family);
    build(&mut batch);
    batch.commit().unwrap();
    let made = lines(word);
    nft(&["-f", "-"], &whole(&format!("delete table FAMILY t\n{EMPTY}{by_nft}")));
    assert_eq!(made, lines(word));
    nft(&["-f", "-"], &whole("delete table FAMILY t\n"));
}

#[test]
fn elements_and_rules_read_back_as_nft_would_have_written_them() {
    apart(|| {
        let v4 = |text: &str| Field::Address(text.parse().unwrap());
        let (one, both) = (vec![at("10.1.1.1:80")], vec![at("10.1.1.1:80"), at("10.1.1.2:8081")]);
        let build = |batch: &mut Batch| {
            batch.add_chain("a");
            batch.add_chain("b");
            let key = vec![v4("10.0.0.1"), Field::Protocol(6), Field::Port(80)];
            let dropped = vec![v4("10.0.0.2"), Field::Protocol(17), Field::Port(53)];
            batch.add_elements("m", [(key, Some(Verdict::Goto("a"))), (dropped, Some(Verdict::Drop))]);
            batch.add_elements("p", [(vec![Field::Protocol(132), Field::Port(9)], Some(Verdict::Goto("b")))]);
            batch.add_elements("h", [(vec![v4("10.1.1.1"), v4("10.1.1.1")], None)]);
            let from_outside =
                [Statement::IsNotFrom("10.42.0.0".parse().unwrap(), 16), Statement::Mark(0x4000)];
            batch.add_rule("a", &from_outside, "");
            batch.add_rule("a", &[Statement::IsProtocol(6), Statement::LeadTo(&both)], "a/web:http");
            let oddly = [Statement::IsNotFrom("10.42.32.0".parse().unwrap(), 19), Statement::Mark(0x4000)];
            batch.add_rule("b", &oddly, "");
            batch.add_rule("b", &[Statement::Mark(0x4000)], "");
            batch.add_rule("b", &[Statement::IsProtocol(132), Statement::LeadTo(&one)], "x");
        };
        let text = r#"table ip t {
  map m { type ipv4_addr . inet_proto . inet_service : verdict; elements = { 10.0.0.1 . tcp . 80 : goto a, 10.0.0.2 . udp . 53 : drop } }
  map p { type inet_proto . inet_service : verdict; elements = { sctp . 9 : goto b } }
  set h { type ipv4_addr . ipv4_addr; elements = { 10.1.1.1 . 10.1.1.1 } }
  chain a {
    ip saddr != 10.42.0.0/16 meta mark set meta mark | 0x4000
    meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.1.1.1 . 80, 1 : 10.1.1.2 . 8081 } comment "a/web:http"
  }
  chain b {
    ip saddr != 10.42.32.0/19 meta mark set meta mark | 0x4000
    meta mark set meta mark | 0x4000
    meta l4proto sctp dnat to 10.1.1.1:80 comment "x"
  }
}
"#;
        check(TableFamily::Ip, build, text);
    });
}

#[test]
fn ipv6_has_longer_addresses_and_the_same_rules() {
    apart(|| {
        let (one, both) = (vec![at("[fd00::1]:80")], vec![at("[fd00::1]:80"), at("[fd00::2]:81")]);
        let build = |batch: &mut Batch| {
            batch.add_chain("a");
            let from_outside = [Statement::IsNotFrom("fd42::".parse().unwrap(), 56), Statement::Mark(0x4000)];
            batch.add_rule("a", &from_outside, "");
            batch.add_rule("a", &[Statement::IsProtocol(6), Statement::LeadTo(&both)], "");
            batch.add_rule("a", &[Statement::IsProtocol(17), Statement::LeadTo(&one)], "");
        };
        let text = r"table ip6 t {
  chain a {
    ip6 saddr != fd42::/56 meta mark set meta mark | 0x4000
    meta l4proto tcp dnat ip6 to numgen random mod 2 map { 0 : fd00::1 . 80, 1 : fd00::2 . 81 }
    meta l4proto udp dnat to [fd00::1]:80
  }
}
";
        check(TableFamily::Ip6, build, text);
    });
}

#[test]
fn all_of_a_batch_is_done_or_nothing() {
    apart(|| {
        nft(&["-f", "-"], &EMPTY.replace("FAMILY", "ip").replace("TYPE", "ipv4_addr"));
        let mut batch = Batch::new("t");
        batch.add_chain("a");
        batch.delete_elements("p", [vec![Field::Protocol(6), Field::Port(80)]]);
        assert_eq!(batch.commit().unwrap_err().errno, rustix::io::Errno::NOENT);
        assert!(!lines("ip").iter().any(|line| line.starts_with("chain a")));
        // What leads to a chain goes before it, in whatever order the chains come.
        let key = || vec![Field::Protocol(6), Field::Port(80)];
        let mut batch = Batch::new("t");
        batch.add_chain("a");
        batch.add_elements("p", [(key(), Some(Verdict::Goto("a")))]);
        batch.commit().unwrap();
        let mut batch = Batch::new("t");
        batch.delete_chain("a");
        assert_eq!(batch.commit().unwrap_err().errno, rustix::io::Errno::BUSY);
        let mut batch = Batch::new("t");
        batch.delete_elements("p", [key()]);
        batch.flush_chain("a");
        batch.delete_chain("a");
        batch.commit().unwrap();
        assert!(!lines("ip").iter().any(|line| line.starts_with("chain a")));
        let mut batch = Batch::new("no-such-table");
        batch.add_chain("a");
        assert_eq!(batch.commit().unwrap_err().errno, rustix::io::Errno::NOENT);
        assert!(Batch::new("t").is_empty() && Batch::new("t").commit().is_ok());
    });
}

#[test]
fn thousands_of_elements_fit_into_one_transaction() {
    apart(|| {
        nft(&["-f", "-"], &EMPTY.replace("FAMILY", "ip").replace("TYPE", "ipv4_addr"));
        let targets: Vec<(IpAddr, u16)> = (0..3_000_u16).map(|n| (IpAddr::from([10, 1, 0, 1]), n)).collect();
        let mut batch = Batch::new("t");
        batch.add_chain("a");
        batch.add_rule("a", &[Statement::IsProtocol(6), Statement::LeadTo(&targets)], "");
        let keys = targets.iter().map(|(_, port)| (vec![Field::Protocol(6), Field::Port(*port)], None));
        let drops = keys.map(|(key, _): (Vec<Field>, Option<Verdict<'_>>)| (key, Some(Verdict::Drop)));
        batch.add_elements("p", drops);
        batch.commit().unwrap();
        let text = nft(&["list", "table", "ip", "t"], "");
        assert!(text.contains("mod 3000") && text.contains("2999 : 10.1.0.1 . 2999"), "{text}");
        assert!(text.contains("tcp . 2999 : drop"), "{text}");
    });
}
