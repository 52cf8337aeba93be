//! `conformance!` and what it is made of.

/// Instantiate the conformance suite for one executor: one `#[test]` per promise.
///
/// Takes a closure that runs an application on the executor, and optionally the groups to leave
/// out. The [crate's documentation](crate) says what is expected of the closure, which groups there
/// are, and what each needs.
///
/// ```ignore
/// polyquic_testkit::conformance!(|app| polyquic_smol::run(1, app));
/// polyquic_testkit::conformance!(|app| my::run(app), except: [threads, shutdown]);
/// ```
#[macro_export]
macro_rules! conformance {
    (|$app:ident| $run:expr $(,)?) => {
        $crate::conformance! { |$app| $run, except: [] }
    };
    (|$app:ident| $run:expr, except: [$($group:ident),* $(,)?] $(,)?) => {
        $( $crate::__known_group! { $group } )*
        $crate::__group! { [$($group)*] $app $run => streams: run {
            echo_on_a_bidirectional_stream,
            unidirectional_streams_both_ways,
            streams_are_accepted_in_order,
            many_streams_within_tiny_windows,
            the_stream_limit_holds_back_opening,
            all_who_wait_to_open_are_woken,
            half_close,
            an_empty_stream_arrives,
            a_finished_stream_takes_nothing_more,
            a_reset_reaches_the_reader,
            a_stop_reaches_the_writer,
            ending_a_shared_stream_wakes_who_waits,
            stopped_waits_for_delivery,
            received_reset_tells,
            dropping_an_unfinished_sender_resets,
            dropping_a_finished_sender_delivers,
            dropping_a_receiver_stops,
            higher_priorities_go_first,
        } }
        $crate::__group! { [$($group)*] $app $run => reading: run {
            chunks_are_written_and_read_whole,
            chunks_respect_their_limit,
            unordered_reads_miss_nothing,
            read_to_end_has_a_limit,
            read_exact_reports_an_early_end,
            empty_buffers_do_not_wait,
            streams_are_futures_io,
        } }
        $crate::__group! { [$($group)*] $app $run => datagrams: run {
            datagrams_both_ways,
            the_size_limit_is_exact,
            datagrams_can_be_switched_off,
            waiting_senders_drop_nothing,
            what_arrived_can_be_read_after_a_close,
        } }
        $crate::__group! { [$($group)*] $app $run => closing: run {
            a_close_reaches_the_peer,
            a_long_reason_is_cut,
            a_close_fails_whatever_waits,
            what_arrived_can_be_read_after_a_close,
            dropping_the_last_handle_delivers_and_closes,
            streams_keep_the_connection_open,
            closing_an_endpoint_delivers_what_was_finished,
            a_stop_after_the_end_does_not_hinder_closing,
            a_closed_endpoint_does_nothing_more,
            wait_idle_waits_for_the_last_connection,
            connections_outlive_the_handle_of_their_endpoint,
            the_last_handle_frees_the_address,
            dropping_a_connection_attempt_gives_it_up,
            closing_during_the_handshake,
        } }
        $crate::__group! { [$($group)*] $app $run => cancel: run {
            opening_and_accepting_unidirectional_streams,
            opening_and_accepting_bidirectional_streams,
            giving_up_leaves_the_wake_up_to_others,
            reading_and_writing,
            datagrams,
            waiting_for_the_end_of_streams,
            accepting_connections,
            waiting_for_the_end_of_connections,
            timeouts_lose_nothing,
        } }
        $crate::__group! { [$($group)*] $app $run => handshake: run {
            an_untrusted_authority_is_refused,
            a_certificate_for_another_name_is_refused,
            an_expired_certificate_is_refused,
            an_alpn_mismatch_is_refused,
            a_missing_client_certificate_is_refused,
            both_sides_know_each_other,
            negotiated_parameters_are_told,
            a_missing_certificate_is_told,
            a_panicking_lookup_fails_one_handshake,
            exporters_agree,
            bad_parameters_are_named,
            a_refusal_is_told,
            an_endpoint_can_stop_being_a_server,
            an_ignored_attempt_times_out,
            accepting_with_another_configuration,
            every_client_can_be_made_to_retry,
            a_token_spares_the_retry,
            statistics_are_plausible,
        } }
        $crate::__group! { [$($group)*] $app $run => zero_rtt: run {
            strangers_have_no_0rtt,
            accepted_0rtt_delivers,
            rejected_0rtt_is_told,
            void_streams_do_not_hinder_delivery,
            rejection_makes_room_for_streams,
            void_streams_do_not_silence_their_successors,
            servers_may_speak_first,
            resumption_spares_the_certificate,
        } }
        $crate::__group! { [$($group)*] $app $run => liveness: run {
            a_silent_connection_times_out,
            keep_alive_keeps_a_silent_connection,
            timers_fire_in_order,
            timers_can_be_moved,
            offloaded_jobs_run,
            offloaded_results_come_back,
            key_updates_during_transfers,
        } }
        $crate::__group! { [$($group)*] $app $run => scale: run {
            many_connections_at_once,
            large_transfers_both_ways_at_once,
            many_streams_at_once,
            one_endpoint_is_client_and_server,
        } }
        $crate::__group! { [$($group)*] $app $run => udp: run {
            ipv4,
            ipv6,
            dual_stack_servers,
            dual_stack_clients,
            sockets_of_the_standard_library,
            rebinding_during_transfers,
            rebinding_to_an_address_during_transfers,
            rebinding_while_idle,
            a_failed_rebind_keeps_the_socket,
            migration_can_be_forbidden,
            a_nat_rebinding_is_survived,
            a_server_restart_resets,
            a_server_restart_without_its_key_times_out,
            a_client_restart_on_the_same_address,
            a_vanished_peer_times_out,
            connecting_to_nobody_times_out,
            a_shaky_network_delivers_everything,
            the_oldest_datagrams_are_dropped,
            early_streams_are_marked,
            an_outage_is_survived,
            junk_does_not_disturb_transfers,
            #[alone] junk_leaves_memory_flat,
        } }
        $crate::__group! { [$($group)*] $app $run => shards: run {
            the_kernel_steers,
            shards_hand_over,
            clients_rebind_during_transfers,
            a_client_of_several_shards_rebinds,
            closing_covers_all_shards,
            a_lost_shard_is_contained,
            resets_find_their_shard,
            what_cannot_be_is_refused,
        } }
        $crate::__group! { [$($group)*] $app $run => threads: run {
            a_connection_is_shared_by_threads,
            everything_happens_on_other_threads,
            waiting_and_acting_on_different_threads,
            handles_are_dropped_elsewhere,
            handles_come_from_other_threads,
            slow_certificate_lookups_hold_up_nobody,
            closing_during_a_certificate_lookup,
        } }
        $crate::__group! { [$($group)*] $app $run => shutdown: after {
            operations_fail_afterwards,
            who_waits_is_woken,
        } }
    };
}

/// A misspelt group would silently be tested after all.
#[doc(hidden)]
#[macro_export]
macro_rules! __known_group {
    (streams) => {};
    (reading) => {};
    (datagrams) => {};
    (closing) => {};
    (cancel) => {};
    (handshake) => {};
    (zero_rtt) => {};
    (liveness) => {};
    (scale) => {};
    (udp) => {};
    (shards) => {};
    (threads) => {};
    (shutdown) => {};
    ($unknown:ident) => {
        ::core::compile_error!(::core::concat!(
            "the conformance suite has no group `",
            ::core::stringify!($unknown),
            "`"
        ));
    };
}

/// One group, unless it is among those to be left out.
#[doc(hidden)]
#[macro_export]
macro_rules! __group {
    ([streams $($rest:ident)*] $app:ident $run:expr => streams: $kind:ident $tests:tt) => {};
    ([reading $($rest:ident)*] $app:ident $run:expr => reading: $kind:ident $tests:tt) => {};
    ([datagrams $($rest:ident)*] $app:ident $run:expr => datagrams: $kind:ident $tests:tt) => {};
    ([closing $($rest:ident)*] $app:ident $run:expr => closing: $kind:ident $tests:tt) => {};
    ([cancel $($rest:ident)*] $app:ident $run:expr => cancel: $kind:ident $tests:tt) => {};
    ([handshake $($rest:ident)*] $app:ident $run:expr => handshake: $kind:ident $tests:tt) => {};
    ([zero_rtt $($rest:ident)*] $app:ident $run:expr => zero_rtt: $kind:ident $tests:tt) => {};
    ([liveness $($rest:ident)*] $app:ident $run:expr => liveness: $kind:ident $tests:tt) => {};
    ([scale $($rest:ident)*] $app:ident $run:expr => scale: $kind:ident $tests:tt) => {};
    ([udp $($rest:ident)*] $app:ident $run:expr => udp: $kind:ident $tests:tt) => {};
    ([shards $($rest:ident)*] $app:ident $run:expr => shards: $kind:ident $tests:tt) => {};
    ([threads $($rest:ident)*] $app:ident $run:expr => threads: $kind:ident $tests:tt) => {};
    ([shutdown $($rest:ident)*] $app:ident $run:expr => shutdown: $kind:ident $tests:tt) => {};
    ([$other:ident $($rest:ident)*] $app:ident $run:expr => $group:ident: $kind:ident $tests:tt) => {
        $crate::__group! { [$($rest)*] $app $run => $group: $kind $tests }
    };
    ([] $app:ident $run:expr => $group:ident: $kind:ident { $($(#[$attribute:ident])? $test:ident),* $(,)? }) => {
        mod $group {
            // The closure may name what is in scope where the macro is used.
            #[allow(unused_imports)]
            use super::*;

            $(
                $crate::__promise! {
                    $test,
                    $crate::__test! {
                        $($attribute)? $kind,
                        ::core::concat!(::core::module_path!(), "::", ::core::stringify!($test)),
                        $app,
                        $run,
                        $crate::$group::$test
                    }
                }
            )*
            $crate::__promises! { $group $($test)* }
        }
    };
}

/// One promise as a function: for libtest, where that is there.
#[doc(hidden)]
#[macro_export]
#[cfg(not(target_family = "wasm"))]
macro_rules! __promise {
    ($test:ident, $body:expr) => {
        #[test]
        fn $test() {
            $body
        }
    };
}

/// One promise as a function: for whoever calls what [`__promises`] lists.
#[doc(hidden)]
#[macro_export]
#[cfg(target_family = "wasm")]
macro_rules! __promise {
    ($test:ident, $body:expr) => {
        fn $test() {
            $body
        }
    };
}

/// libtest finds the promises of a group by itself.
#[doc(hidden)]
#[macro_export]
#[cfg(not(target_family = "wasm"))]
macro_rules! __promises {
    ($group:ident $($test:ident)*) => {};
}

/// The promises of a group, with their names, where there is no libtest.
#[doc(hidden)]
#[macro_export]
#[cfg(target_family = "wasm")]
macro_rules! __promises {
    ($group:ident $($test:ident)*) => {
        pub(crate) const PROMISES: &[(&str, fn())] = &[
            $((::core::concat!(::core::stringify!($group), "::", ::core::stringify!($test)), $test as fn())),*
        ];
    };
}

/// The body of one test. The closure is taken apart, so that its argument has a known type wherever
/// it is called.
#[doc(hidden)]
#[macro_export]
macro_rules! __test {
    (run, $name:expr, $app:ident, $run:expr, $test:path) => {
        $crate::harness::run($name, || {
            let $app = $test;
            $run
        })
    };
    (alone run, $name:expr, $app:ident, $run:expr, $test:path) => {
        $crate::harness::run_alone($name, || {
            let $app = $test;
            $run
        })
    };
    (after, $name:expr, $app:ident, $run:expr, $test:path) => {
        $crate::harness::run_and_after($name, |leave| {
            let $app = move |rt| $test(rt, leave);
            $run
        })
    };
}
