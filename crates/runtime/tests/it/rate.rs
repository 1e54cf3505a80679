//! The rate limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pacstore_runtime::{RateLimit, Tasks};
use tokio::time::Instant;

const MB: u64 = 1_000_000;

#[tokio::test(start_paused = true)]
async fn many_bytes_take_as_long_as_the_rate_says() {
    let limit = RateLimit::new(Some(4 * MB));
    let start = Instant::now();
    for _ in 0..40 {
        limit.take(MB).await;
    }
    let took = start.elapsed().as_secs_f64();
    assert!((9.7..=10.1).contains(&took), "40 MB at 4 MB/s took {took} s");
}

#[tokio::test(start_paused = true)]
async fn the_burst_is_at_most_a_second_and_at_least_one_piece() {
    for (rate, burst) in [(100_000, 65_536), (10 * MB, 2_500_000), (1_000, 65_536)] {
        let limit = RateLimit::new(Some(rate));
        tokio::time::advance(Duration::from_hours(1)).await;
        assert!(limit.try_take(burst), "burst at {rate} B/s");
        assert!(!limit.try_take(1));
    }
}

#[tokio::test(start_paused = true)]
async fn no_limit_never_waits() {
    let start = Instant::now();
    RateLimit::new(None).take(u64::MAX).await;
    RateLimit::new(Some(0)).take(u64::MAX).await;
    assert!(RateLimit::new(None).try_take(u64::MAX));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_changed_rate_counts_at_once_for_those_who_wait() {
    let limit = RateLimit::new(Some(1_000));
    limit.take(65_536).await;
    let start = Instant::now();
    let wait = limit.take(65_536); // 65 s at this rate
    tokio::pin!(wait);
    assert!(futures::poll!(&mut wait).is_pending());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(futures::poll!(&mut wait).is_pending());
    limit.set_rate(Some(MB));
    wait.await;
    assert!(
        start.elapsed() < Duration::from_millis(1_100),
        "{:?}",
        start.elapsed()
    );

    let wait = limit.take(100 * MB);
    tokio::pin!(wait);
    assert!(futures::poll!(&mut wait).is_pending());
    limit.set_rate(None);
    wait.await;
    assert!(
        start.elapsed() < Duration::from_millis(1_200),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(limit.rate(), None);
}

#[tokio::test(start_paused = true)]
async fn a_large_taker_does_not_hold_up_a_small_one() {
    let limit = RateLimit::new(Some(MB));
    let tasks = Tasks::new();
    let done = Arc::new(AtomicU64::new(0));
    let (big, count) = (limit.clone(), Arc::clone(&done));
    tasks.spawn("big", async move {
        big.take(100 * MB).await;
        count.fetch_add(1, Ordering::Relaxed);
    });
    tokio::task::yield_now().await;
    let start = Instant::now();
    limit.take(50_000).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(done.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_taker_that_gives_up_frees_the_queue() {
    let limit = RateLimit::new(Some(1_000));
    limit.take(65_536).await;
    {
        let gone = limit.take(65_536);
        tokio::pin!(gone);
        assert!(futures::poll!(&mut gone).is_pending());
        assert!(!limit.try_take(0), "somebody waits");
    }
    let start = Instant::now();
    limit.take(1_000).await;
    assert_eq!(start.elapsed().as_millis(), 1_000);
}
