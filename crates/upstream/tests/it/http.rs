//! Single requests: what comes, and what each fault of a mirror is called.

use std::time::Duration;

use pacstore_runtime::RateLimit;
use pacstore_testkit::{At, Fault, TestResult, Upstream, random};
use pacstore_upstream::{
    AddressRules, Get, Http, HttpError, HttpOptions, IfRangeIgnored, MinRate, Refused, ServedRange, Url,
};

/// Patient: on a busy machine a good mirror may be late.
pub(crate) fn client() -> Http {
    Http::new(options())
}

/// For mirrors that stall.
fn impatient() -> Http {
    Http::new(HttpOptions {
        stall_timeout: Duration::from_millis(300),
        ..options()
    })
}

fn options() -> HttpOptions {
    HttpOptions {
        stall_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(2),
        ..HttpOptions::default()
    }
}

pub(crate) fn url(mirror: &Upstream, path: &str) -> Url {
    Url::parse(&mirror.url(path)).expect("the mirror's URLs are URLs")
}

/// Whether it is the error that a fault must be called.
type Wanted = fn(&HttpError) -> bool;

/// The whole body, or what went wrong with header or body.
async fn body(http: &Http, get: &Get<'_>) -> Result<Vec<u8>, HttpError> {
    let mut response = http.get(get).await?;
    let mut all = Vec::new();
    while let Some(piece) = response.chunk().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

#[tokio::test]
async fn a_file_comes_whole_in_ranges_and_under_conditions() -> TestResult {
    let mirror = Upstream::memory()?;
    let bytes = random(1, 300_000);
    mirror.put("core/a b.pkg", bytes.clone())?;
    let (http, url) = (client(), url(&mirror, "core/a%20b.pkg"));
    let mut response = http.get(&Get::new(&url)).await?;
    assert_eq!(
        (response.status, response.len, response.range),
        (200, Some(300_000), None)
    );
    let (etag, time) = (response.etag.clone(), response.last_modified);
    assert!(response.bytes().await? == bytes);
    assert_eq!(response.received(), 300_000);

    let mut get = Get::new(&url);
    get.range = Some(100..200);
    let mut response = http.get(&get).await?;
    assert_eq!(
        response.range,
        Some(ServedRange {
            start: 100,
            end: 200,
            total: Some(300_000)
        })
    );
    assert_eq!(response.bytes().await?, bytes[100..200]);
    for (range, want) in [
        (299_990..u64::MAX, 299_990..300_000),
        (299_990..400_000, 299_990..300_000),
    ] {
        get.range = Some(range);
        assert_eq!(body(&http, &get).await?, bytes[want]);
    }
    get.range = Some(300_000..300_001);
    let error = body(&http, &get).await.expect_err("behind the end");
    assert!(
        matches!(
            error,
            HttpError::NoSuchRange {
                total: Some(300_000),
                ..
            }
        ),
        "{error:?}"
    );

    let mut get = Get::new(&url);
    get.if_none_match = etag;
    let error = body(&http, &get).await.expect_err("not modified");
    assert!(
        matches!(error, HttpError::NotModified { .. }) && !error.counts_against_mirror(),
        "{error:?}"
    );
    let mut get = Get::new(&url);
    get.if_modified_since = time;
    let error = body(&http, &get).await.expect_err("not modified");
    assert!(matches!(error, HttpError::NotModified { .. }), "{error:?}");
    let agent = mirror.log()[0].user_agent.clone().unwrap_or_default();
    assert!(agent.starts_with("pacstore/"), "{agent}");
    Ok(())
}

#[tokio::test]
async fn each_bad_answer_has_its_own_error() -> TestResult {
    let mirror = Upstream::memory()?;
    mirror.put("f", random(2, 200_000))?;
    let (http, url) = (client(), url(&mirror, "f"));
    let cases: Vec<(Fault, Wanted)> = vec![
        (Fault::NoAnswer, |e| matches!(e, HttpError::Deadline { .. })),
        (Fault::Hangup, |e| matches!(e, HttpError::NoAnswer { .. })),
        (Fault::StallAfterHeader, |e| {
            matches!(e, HttpError::Stalled { .. })
        }),
        (Fault::StallAt(At::Percent(50)), |e| {
            matches!(e, HttpError::Stalled { .. })
        }),
        (Fault::Truncate(At::Byte(70_000)), |e| {
            matches!(
                e,
                HttpError::ShortBody {
                    expected: Some(200_000),
                    got: 70_000,
                    ..
                }
            )
        }),
        (Fault::WrongLength(5), |e| {
            matches!(e, HttpError::ShortBody { got: 200_000, .. })
        }),
        (Fault::Status(404), |e| {
            matches!(e, HttpError::Status { code: 404, .. }) && !e.counts_against_mirror()
        }),
        (Fault::Status(503), |e| {
            matches!(e, HttpError::Status { code: 503, .. }) && e.is_transient()
        }),
        (Fault::Status(204), |e| {
            matches!(e, HttpError::Status { code: 204, .. })
        }),
        (Fault::RedirectLoop, |e| matches!(e, HttpError::Redirect { .. })),
        (Fault::Redirect("http://[".into()), |e| {
            matches!(e, HttpError::Redirect { .. })
        }),
        (Fault::Redirect("file:///etc/passwd".into()), |e| {
            matches!(
                e,
                HttpError::Forbidden {
                    why: Refused::Scheme,
                    ..
                }
            )
        }),
        (Fault::Redirect("http://127.0.0.1:1/".into()), |e| {
            matches!(e, HttpError::Connect { .. })
        }),
        (Fault::Endless, |e| {
            matches!(e, HttpError::TooLong { limit: 1_000_000, .. })
        }),
        (Fault::Drip(Duration::from_millis(20)), |e| {
            matches!(e, HttpError::TooSlow { .. })
        }),
    ];
    let slow = HttpOptions {
        min_rate: Some(MinRate {
            bytes: 1000,
            within: Duration::from_millis(300),
        }),
        ..options()
    };
    let (slow, stalls) = (Http::new(slow), impatient());
    for (fault, wanted) in cases {
        mirror.heal();
        mirror.fault("f", fault.clone());
        let mut get = Get::new(&url);
        get.max_len = Some(1_000_000);
        let seconds = if matches!(fault, Fault::NoAnswer) { 1 } else { 30 };
        get.deadline = Some(Duration::from_secs(seconds));
        let http = match fault {
            Fault::Drip(_) => &slow,
            Fault::StallAfterHeader | Fault::StallAt(_) => &stalls,
            _ => &http,
        };
        let error = body(http, &get).await.expect_err("it is a fault");
        assert!(wanted(&error), "{fault:?}: {error:?}");
    }
    mirror.heal();
    assert_eq!(body(&http, &Get::new(&url)).await?.len(), 200_000);
    Ok(())
}

#[tokio::test]
async fn ranges_that_are_ignored_or_wrong_are_noticed() -> TestResult {
    let mirror = Upstream::memory()?;
    let bytes = random(3, 50_000);
    mirror.put("f", bytes.clone())?;
    let (http, url) = (client(), url(&mirror, "f"));
    let mut get = Get::new(&url);
    get.range = Some(10..20);
    mirror.fault("f", Fault::NoRanges);
    let error = body(&http, &get).await.expect_err("ignored");
    assert!(matches!(error, HttpError::RangeIgnored { .. }), "{error:?}");
    get.if_range_ignored = IfRangeIgnored::Stream;
    let mut response = http.get(&get).await?;
    assert_eq!((response.status, response.range), (200, None));
    assert!(response.bytes().await? == bytes);
    mirror.heal();
    mirror.fault("f", Fault::WrongRange(1));
    let error = body(&http, &get).await.expect_err("wrong");
    assert!(matches!(error, HttpError::WrongRange { .. }), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_body_that_claims_to_be_packed_comes_as_it_is() -> TestResult {
    let mirror = Upstream::memory()?;
    let bytes = random(4, 1000);
    mirror.put("core.db", bytes.clone())?;
    mirror.fault("core.db", Fault::ClaimsGzip);
    assert_eq!(body(&client(), &Get::new(&url(&mirror, "core.db"))).await?, bytes);
    Ok(())
}

#[tokio::test]
async fn redirects_are_followed_and_a_body_without_length_is_whole() -> TestResult {
    let (mirror, other) = (Upstream::memory()?, Upstream::memory()?);
    other.put("real/f", "hello")?;
    other.fault("real/f", Fault::NoLength);
    mirror.put("f", "not this")?;
    mirror.fault("f", Fault::Redirect(other.url("real/f")));
    let mut response = client().get(&Get::new(&url(&mirror, "f"))).await?;
    assert_eq!(
        (response.len, response.url.as_str()),
        (None, other.url("real/f").as_str())
    );
    assert_eq!(response.bytes().await?, "hello");
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_not_configured_is_not_dialled() -> TestResult {
    let (mirror, other) = (Upstream::memory()?, Upstream::memory()?);
    let (configured, stranger) = (url(&mirror, ""), url(&other, "f"));
    let http = Http::new(HttpOptions {
        allow_private: AddressRules::only([&configured]),
        ..options()
    });
    let error = body(&http, &Get::new(&stranger))
        .await
        .expect_err("not configured");
    assert!(
        matches!(
            error,
            HttpError::Forbidden {
                why: Refused::NotConfigured,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(other.log().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_configured_name_may_be_this_machine() -> TestResult {
    let mirror = Upstream::memory()?;
    mirror.put("f", "here")?;
    let named = Url::parse(&format!("http://localhost:{}/f", mirror.address().port()))?;
    let http = Http::new(HttpOptions {
        allow_private: AddressRules::only([&named]),
        ..options()
    });
    assert_eq!(body(&http, &Get::new(&named)).await?, b"here");
    Ok(())
}

#[tokio::test]
async fn a_deadline_ends_a_body_that_never_stalls() -> TestResult {
    let mirror = Upstream::memory()?;
    mirror.put("f", random(5, 100_000))?;
    mirror.fault("f", Fault::Slow(50_000));
    let url = url(&mirror, "f");
    let mut get = Get::new(&url);
    get.deadline = Some(Duration::from_millis(300));
    let error = body(&client(), &get).await.expect_err("too late");
    assert!(matches!(error, HttpError::Deadline { .. }), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn no_more_requests_than_allowed_are_under_way_at_one_host() -> TestResult {
    let mirror = Upstream::memory()?;
    mirror.put("f", random(6, 100_000))?;
    let http = Http::new(HttpOptions {
        per_host: 2,
        busy_timeout: Duration::from_millis(100),
        ..options()
    });
    let url = url(&mirror, "f");
    let get = Get::new(&url);
    let (one, two) = (http.get(&get).await?, http.get(&get).await?);
    let error = http.get(&get).await.expect_err("both are in use");
    assert!(
        matches!(error, HttpError::Busy { .. }) && !error.counts_against_mirror(),
        "{error:?}"
    );
    drop(one);
    http.get(&get).await?.bytes().await?;
    drop(two);
    Ok(())
}

#[tokio::test]
async fn the_common_rate_holds_over_all_requests() -> TestResult {
    let mirror = Upstream::memory()?;
    mirror.put("f", random(7, 400_000))?;
    let http = Http::new(HttpOptions {
        rate: Some(RateLimit::new(Some(1_000_000))),
        ..options()
    });
    let url = url(&mirror, "f");
    let get = Get::new(&url);
    let began = tokio::time::Instant::now();
    let (a, b) = tokio::join!(body(&http, &get), body(&http, &get));
    assert_eq!((a?.len(), b?.len()), (400_000, 400_000));
    assert!(
        began.elapsed() > Duration::from_millis(350),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn a_small_body_is_bounded_in_memory() -> TestResult {
    let mirror = Upstream::memory()?;
    mirror.put("f", random(8, 10_000))?;
    mirror.fault("f", Fault::NoLength);
    let url = url(&mirror, "f");
    let mut get = Get::new(&url);
    get.max_len = Some(9_999);
    let error = client().get(&get).await?.bytes().await.expect_err("too long");
    assert!(
        matches!(error, HttpError::TooLong { limit: 9_999, .. }),
        "{error:?}"
    );
    Ok(())
}
