//! The byte budget.

use std::time::Duration;

use pacstore_runtime::{ByteBudget, Tasks, deadline};

#[tokio::test(start_paused = true)]
async fn waiters_get_room_in_the_order_they_asked() {
    let budget = ByteBudget::new(100);
    let all = budget.acquire(100).await;
    let (big, small) = (budget.acquire(80), budget.acquire(30));
    tokio::pin!(big, small);
    assert!(futures::poll!(&mut big).is_pending());
    assert!(futures::poll!(&mut small).is_pending());
    drop(all);
    let first = big.await;
    assert!(futures::poll!(&mut small).is_pending(), "30 do not fit beside 80");
    assert!(budget.try_acquire(1).is_none(), "nobody jumps the queue");
    drop(first);
    assert_eq!(small.await.len(), 30);
}

#[tokio::test(start_paused = true)]
async fn more_than_the_limit_is_clamped_and_then_alone() {
    let budget = ByteBudget::new(10);
    let lease = budget.acquire(1_000_000).await;
    assert_eq!((lease.len(), budget.in_use(), budget.limit()), (10, 10, 10));
    assert!(budget.try_acquire(1).is_none());
    drop(lease);
    assert!(budget.try_acquire(10).is_some());
    assert_eq!(ByteBudget::new(0).acquire(5).await.len(), 1);
}

#[test]
fn a_lease_can_be_shrunk_and_split() {
    let budget = ByteBudget::new(100);
    let mut lease = budget.try_acquire(100).expect("room");
    lease.shrink_to(60);
    assert_eq!(budget.in_use(), 60);
    let part = lease.split_off(20);
    assert_eq!((lease.len(), part.len(), budget.in_use()), (40, 20, 60));
    let rest = budget.try_acquire(40).expect("what was given back");
    assert!(budget.try_acquire(1).is_none());
    drop((lease, part, rest));
    assert_eq!(budget.in_use(), 0);
    assert!(budget.try_acquire(100).is_some());
}

#[test]
fn limits_beyond_32_bits_hold() {
    let limit = 10_000_000_000_000;
    let budget = ByteBudget::new(limit);
    let mut leases = Vec::new();
    while let Some(lease) = budget.try_acquire(limit / 7) {
        leases.push(lease);
    }
    assert!(leases.len() <= 7, "{} leases of a seventh", leases.len());
    assert!(leases.len() >= 6);
    let mut one = leases.pop().expect("some");
    one.shrink_to(1);
    drop((leases, one));
    assert_eq!(budget.in_use(), 0);
    assert!(budget.try_acquire(u64::MAX).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_gives_up_leaves_the_queue() {
    let budget = ByteBudget::new(10);
    let tasks = Tasks::new();
    let held = budget.acquire(8).await;
    let asked = budget.clone();
    let waiter = tasks.spawn("waiter", async move { drop(asked.acquire(10).await) });
    tokio::task::yield_now().await; // the waiter queues up
    assert!(
        deadline("room", Duration::from_secs(1), budget.acquire(2))
            .await
            .is_err(),
        "behind the waiter"
    );
    waiter.abort();
    waiter.ended().await;
    assert!(budget.try_acquire(2).is_some());
    drop(held);
}
