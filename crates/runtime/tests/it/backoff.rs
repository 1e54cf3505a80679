//! Back-off, deadlines and the clock.

use std::future::pending;
use std::time::{Duration, UNIX_EPOCH};

use pacstore_runtime::{Backoff, Clock, deadline};

#[test]
fn delays_double_up_to_the_maximum_with_jitter_below_the_step() {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
    for step in [1, 2, 4, 8, 10, 10, 10] {
        let delay = backoff.next();
        assert!(
            Duration::from_millis(step * 500) <= delay,
            "{delay:?} is under half of {step} s"
        );
        assert!(delay <= Duration::from_secs(step), "{delay:?} is over {step} s");
    }
    assert_eq!(backoff.failures(), 7);
    backoff.reset();
    assert!(backoff.next() <= Duration::from_secs(1));
}

#[test]
fn delays_stay_bounded_after_very_many_failures() {
    let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_mins(5));
    for _ in 0..200 {
        assert!(backoff.next() <= Duration::from_mins(5));
    }
    assert_eq!(
        Backoff::new(Duration::ZERO, Duration::ZERO).next(),
        Duration::ZERO
    );
    assert!(Backoff::new(Duration::from_secs(9), Duration::from_secs(1)).next() <= Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_names_what_was_waited_for() {
    let error = deadline("the peer's record", Duration::from_secs(10), pending::<()>())
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "the peer's record took longer than 10s");
    assert_eq!(deadline("nothing", Duration::ZERO, async { 7 }).await, Ok(7));
}

#[test]
fn a_fake_clock_moves_for_all_its_clones_and_back_too() {
    let (clock, hand) = Clock::fake(UNIX_EPOCH + Duration::from_secs(50));
    let other = clock.clone();
    hand.advance(Duration::from_secs(10));
    assert_eq!(other.unix_seconds(), 60);
    hand.set(UNIX_EPOCH);
    assert_eq!(other.now(), UNIX_EPOCH);
    hand.set(UNIX_EPOCH - Duration::from_secs(1));
    assert_eq!(clock.unix_seconds(), 0);
}
