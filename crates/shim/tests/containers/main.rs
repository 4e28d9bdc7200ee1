//! Real containers, made by a real shim: this executable started again. Needs root.
//!
//! Each test has a sandbox of its own under names of its own, and compares what the machine had
//! before with what it has afterwards. `cargo test -p shim --test containers NAME` runs those
//! whose names contain NAME.

mod escapes;
mod fixture;
mod hostile;
mod lifecycle;
mod security;
mod streams;
mod users;
mod walls;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

/// Name and function of each test.
type Test = (&'static str, fn());

macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => {
        const TESTS: &[Test] = &[$((concat!(stringify!($module), "::", stringify!($name)), $module::$name)),*];
    };
}

tests![
    lifecycle::a_container_runs_and_tells_its_exit_code,
    lifecycle::a_signal_is_told_as_128_and_its_number,
    lifecycle::a_created_container_waits_for_start_and_can_be_deleted,
    lifecycle::programs_that_cannot_be_executed_are_told_in_runcs_words,
    lifecycle::a_failed_creation_leaves_nothing,
    lifecycle::a_container_that_eats_too_much_memory_is_killed_and_told,
    lifecycle::a_process_killed_for_memory_is_told_while_the_container_lives_on,
    lifecycle::a_container_in_the_nodes_pid_namespace_ends_whole,
    lifecycle::a_daemon_that_comes_back_finds_its_containers_and_their_logs,
    lifecycle::what_a_shim_does_not_know_is_answered,
    lifecycle::a_daemon_of_the_release_before_is_served,
    lifecycle::a_dead_shim_takes_its_containers_along_and_still_tells,
    lifecycle::a_sandbox_whose_directory_vanishes_ends,
    lifecycle::containers_share_the_sandboxs_namespaces,
    lifecycle::a_shared_pid_namespace_has_the_reaper_as_pid_1,
    lifecycle::a_sandbox_has_its_network_when_open_returns,
    lifecycle::a_pod_with_its_network_on_the_link_reaches_one_without_and_is_reached,
    lifecycle::limits_are_in_force,
    lifecycle::a_life_is_short,
    lifecycle::the_shim_is_small,
    streams::output_goes_to_the_log_in_cri_format,
    streams::a_log_is_rotated_and_loses_nothing_that_is_kept,
    streams::a_full_disk_does_not_stop_the_container,
    streams::a_command_is_executed_in_a_running_container,
    streams::a_command_with_a_terminal_follows_the_window,
    streams::a_container_with_a_terminal_is_attached_to,
    streams::attached_input_reaches_the_container_and_ends_once,
    streams::an_attached_reader_that_stops_reading_loses_nothing,
    security::an_ordinary_container_has_the_default_restrictions,
    security::a_privileged_container_has_none,
    security::a_user_is_found_in_the_images_files,
    security::a_profile_of_the_node_is_applied,
    security::a_32_bit_program_runs_and_is_held_by_the_default_profile,
    security::mounts_have_their_attributes,
    security::mounts_travel_as_far_as_they_may,
    security::links_of_an_image_do_not_lead_out,
    escapes::an_image_has_real_directories_for_what_the_kernel_shows,
    escapes::covers_come_from_no_volume,
    escapes::nothing_of_a_pod_is_mounted_on_procfs_but_what_lxcfs_emulates,
    escapes::the_nodes_own_proc_and_sys_are_covered_where_a_pod_mounts_them,
    escapes::no_file_of_a_volume_holds_up_a_start,
    escapes::a_working_directory_is_made_inside_and_leads_nowhere_else,
    walls::a_command_is_not_seen_while_it_may_do_more_than_its_container,
    walls::a_container_is_born_among_others_with_nothing_of_the_nodes,
    walls::a_container_beside_another_has_that_ones_processes,
    walls::the_first_process_of_a_shared_namespace_has_nothing,
    walls::a_program_has_its_three_streams_and_no_other_descriptor,
    walls::the_program_of_the_shim_cannot_be_changed_from_a_container,
    walls::a_filter_that_forbids_forks_holds_for_commands_too,
    walls::a_container_sees_no_cgroups_but_its_own,
    walls::a_shim_needs_nothing_of_what_users_share,
    streams::a_command_runs_in_a_container_with_groups_of_its_own,
    walls::a_working_directory_outside_is_refused,
    users::root_of_a_pod_apart_is_nobody_on_the_node,
    users::nothing_of_the_nodes_root_is_within_reach_of_a_pod_apart,
    users::a_user_of_a_pod_apart_has_nothing_of_its_root,
    users::commands_terminals_and_debuggers_join_a_pod_apart,
    users::a_shared_pid_namespace_is_joined_by_a_pod_apart,
    users::proc_can_be_unmasked_in_a_pod_apart,
    users::a_volume_that_cannot_be_mapped_is_refused_by_name,
];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|word| word == "shim") {
        shim::main(arguments.into_iter().skip(2));
    }
    if arguments.get(1).is_some_and(|word| word == "attack-executable") {
        return walls::attack_executable();
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: containers need root");
        return ExitCode::SUCCESS;
    }
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let mut failed = Vec::new();
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(&filter)) {
        let begin = Instant::now();
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        eprintln!("test {name} ... {} ({:?})", if passed { "ok" } else { "FAILED" }, begin.elapsed());
        if !passed {
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("failed: {failed:?}");
    ExitCode::FAILURE
}
