//! Requests for files and directories: methods, ranges, conditions, listings.

use cid::Cid;
use pacstore_import::Files;
use pacstore_testkit::{Repo, RepoSpec, TestResult};

use crate::client::{Served, serve};
use crate::nodes::{NAME, Plan};

/// A gateway over an importer of one repository `core` in the root, and one package's file name and bytes.
async fn core() -> (Served, Repo, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let repo = Repo::create(dir.path(), RepoSpec::new("core").package("zlib", 2_500_000)).unwrap();
    let importer = Plan::importer(dir.path(), Files::Listed).start().await;
    importer.import().await;
    (serve(importer).await, repo, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn get_and_head_answer_alike_and_other_methods_are_refused() -> TestResult {
    let (served, repo, _dir) = core().await;
    let path = format!("/ipns/{NAME}/{}", repo.file_name("zlib")?);
    let got = served.get(&path, &[]).await;
    assert_eq!(got.status, 200);
    assert!(got.is_whole() && got.body == repo.bytes("zlib")?);
    assert_eq!(got.header("accept-ranges"), "bytes");
    assert_eq!(got.header("content-type"), "application/zstd");
    assert!(got.header("etag").starts_with("\"baf"), "{got:?}");
    let head = served.ask("HEAD", &path, &[]).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in [
        "content-length",
        "etag",
        "content-type",
        "x-ipfs-roots",
        "cache-control",
    ] {
        assert_eq!(head.header(name), got.header(name), "{name}");
    }
    // Pages and words alike.
    for (path, status) in [("/", 200), (&*format!("/ipns/{NAME}/"), 200), ("/nothing", 404)] {
        let got = served.get(path, &[]).await;
        let head = served.ask("HEAD", path, &[]).await;
        assert_eq!(
            (got.status, head.status, head.body.len()),
            (status, status, 0),
            "{path}"
        );
        for name in ["content-length", "etag", "content-type"] {
            assert_eq!(head.header(name), got.header(name), "{path} {name}");
        }
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let refused = served.ask(method, &path, &["Content-Length: 0"]).await;
        assert_eq!(
            (refused.status, refused.header("allow")),
            (405, "GET, HEAD"),
            "{method}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_give_exactly_what_they_ask() -> TestResult {
    let (served, repo, _dir) = core().await;
    let path = format!("/ipns/{NAME}/{}", repo.file_name("zlib")?);
    let all = repo.bytes("zlib")?;
    let len = all.len();
    let middle = 1_048_570..1_048_590;
    for (range, want) in [
        ("0-0".to_owned(), 0..1),
        (format!("{}-{}", middle.start, middle.end - 1), middle),
        ("2000000-".to_owned(), 2_000_000..len),
        ("-7".to_owned(), len - 7..len),
        (format!("5-{}", len + 100), 5..len),
    ] {
        let got = served.get(&path, &[&format!("Range: bytes={range}")]).await;
        assert_eq!(got.status, 206, "{range}");
        assert_eq!(
            got.header("content-range"),
            format!("bytes {}-{}/{len}", want.start, want.end - 1)
        );
        assert!(got.is_whole() && got.body == all[want], "{range}");
    }
    let past = served.get(&path, &[&format!("Range: bytes={len}-")]).await;
    assert_eq!(
        (past.status, past.header("content-range")),
        (416, &*format!("bytes */{len}"))
    );
    let whole = served.get(&path, &["Range: bytes=0-1,5-6"]).await;
    assert_eq!((whole.status, whole.body.len()), (200, len));
    let changed = served
        .get(&path, &["Range: bytes=5-", "If-Range: \"other\""])
        .await;
    assert_eq!((changed.status, changed.body.len()), (200, len));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_are_answered_with_304_and_its_headers() -> TestResult {
    let (served, _repo, _dir) = core().await;
    let path = format!("/ipns/{NAME}/core.db");
    let got = served.get(&path, &[]).await;
    let etag = got.header("etag").to_owned();
    let modified = got.header("last-modified").to_owned();
    assert!(!modified.is_empty(), "{got:?}");
    for condition in [
        format!("If-None-Match: {etag}"),
        format!("If-None-Match: \"x\", W/{etag}"),
        format!("If-None-Match: \"x\"\r\nIf-None-Match: {etag}"),
        "If-None-Match: *".to_owned(),
        format!("If-Modified-Since: {modified}"),
    ] {
        let same = served.get(&path, &[&condition]).await;
        assert_eq!((same.status, same.body.len()), (304, 0), "{condition}");
        assert_eq!(same.header("etag"), etag, "{condition}");
        assert_eq!(same.header("last-modified"), modified, "{condition}");
    }
    for condition in [
        "If-None-Match: \"x\"",
        "If-Modified-Since: Mon, 01 Jan 2001 00:00:00 GMT",
        "If-Modified-Since: yesterday",
    ] {
        assert_eq!(served.get(&path, &[condition]).await.status, 200, "{condition}");
    }
    let both = format!("If-Modified-Since: {modified}");
    let other = served.get(&path, &[&both, "If-None-Match: \"x\""]).await;
    assert_eq!(other.status, 200, "If-None-Match wins over the date");
    for (condition, status) in [
        (format!("If-Match: {etag}"), 200),
        (format!("If-Match: \"x\", {etag}"), 200),
        ("If-Match: *".to_owned(), 200),
        (format!("If-Match: \"x\"\r\nIf-Match: {etag}"), 200),
        ("If-Match: \"x\"".to_owned(), 412),
        (format!("If-Match: W/{etag}"), 412),
        (format!("If-Unmodified-Since: {modified}"), 200),
        (
            "If-Unmodified-Since: Mon, 01 Jan 2001 00:00:00 GMT".to_owned(),
            412,
        ),
        ("If-Unmodified-Since: yesterday".to_owned(), 200),
    ] {
        let part = served.get(&path, &[&condition]).await;
        assert_eq!(part.status, status, "{condition}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_listed_and_without_its_slash_leads_there() -> TestResult {
    let dir = tempfile::tempdir()?;
    fs_err::create_dir_all(dir.path().join("sub dir"))?;
    fs_err::write(dir.path().join("sub dir/<a>&b"), b"x")?;
    fs_err::write(dir.path().join("libsigc++"), b"plus")?;
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let served = serve(importer).await;
    let page = served.get(&format!("/ipns/{NAME}/"), &[]).await;
    assert_eq!(page.status, 200);
    assert!(page.is_whole() && page.text().contains("./sub%20dir/") && page.text().contains("libsigc++"));
    let page = served.get(&format!("/ipns/{NAME}/sub%20dir/"), &[]).await;
    assert!(
        page.text().contains("&lt;a&gt;&amp;b") && !page.text().contains("<a>"),
        "{}",
        page.text()
    );
    let moved = served.get(&format!("/ipns/{NAME}/sub%20dir"), &[]).await;
    assert_eq!(
        (moved.status, moved.header("location")),
        (301, &*format!("/ipns/{NAME}/sub%20dir/"))
    );
    // The way up leads to what there is: from a mirror's root to the first page, and nowhere from the root of its own host.
    let sub = served.get(&format!("/ipns/{NAME}/sub%20dir/"), &[]).await;
    assert!(sub.text().contains("<a href=\"../\">../</a>"), "{}", sub.text());
    let root = served.get(&format!("/ipns/{NAME}/"), &[]).await;
    assert!(root.text().contains("<a href=\"/\">../</a>"), "{}", root.text());
    let host = served.get("/", &[&format!("Host: {NAME}.ipns.localhost")]).await;
    assert!(
        host.status == 200 && !host.text().contains("../"),
        "{}",
        host.text()
    );
    let same = served.get(&format!("/ipns/{NAME}/"), &["If-None-Match: *"]).await;
    assert_eq!(same.status, 304);
    for plus in ["libsigc++", "libsigc%2B%2B"] {
        assert_eq!(
            served.get(&format!("/ipns/{NAME}/{plus}"), &[]).await.body,
            b"plus"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cid_is_given_only_where_it_is_part_of_what_is_configured() -> TestResult {
    let (served, repo, _dir) = core().await;
    let tree = served.node.tree().unwrap();
    let package = repo.file_name("zlib")?;
    let got = served.get(&format!("/ipfs/{tree}/{package}"), &[]).await;
    assert_eq!(got.status, 200);
    assert!(got.body == repo.bytes("zlib")? && got.header("cache-control").contains("immutable"));
    let root = got.header("etag").trim_matches('"').to_owned();
    assert!(served.get(&format!("/ipfs/{root}"), &[]).await.body == got.body);
    let by_host = served
        .get(&format!("/{package}"), &[&format!("Host: {tree}.ipfs.localhost")])
        .await;
    assert!(by_host.body == got.body);
    let foreign = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
    let began = std::time::Instant::now();
    let refused = served.get(&format!("/ipfs/{foreign}"), &[]).await;
    assert_eq!(refused.status, 404);
    assert!(began.elapsed().as_secs() < 1, "nobody is asked for it");
    assert_eq!(served.get("/ipfs/nonsense", &[]).await.status, 400);
    // A leaf whose CID says that it is a dag-pb node.
    let database = served.get(&format!("/ipns/{NAME}/core.db"), &[]).await;
    let leaf: Cid = database.header("etag").trim_matches('"').parse()?;
    let leaf = Cid::new_v1(0x70, *leaf.hash());
    let refused = served.get(&format!("/ipfs/{leaf}"), &[]).await;
    assert_eq!(
        (refused.status, refused.text().contains("no file or folder")),
        (404, true)
    );
    Ok(())
}

/// A CID that carries its bytes itself needs nobody to give them.
#[tokio::test(flavor = "multi_thread")]
async fn a_cid_that_holds_its_bytes_is_answered_with_them() -> TestResult {
    let (served, _repo, _dir) = core().await;
    let got = served.get("/ipfs/bafkqablimvwgy3y", &[]).await;
    assert_eq!((got.status, &got.body[..]), (200, &b"hello"[..]));
    let part = served.get("/ipfs/bafkqablimvwgy3y", &["Range: bytes=1-2"]).await;
    assert_eq!((part.status, &part.body[..]), (206, &b"el"[..]));
    // Asked of gateways by those who want to know whether they are one.
    let empty = served.get("/ipfs/bafkqaaa?format=raw", &[]).await;
    assert_eq!((empty.status, empty.body.len()), (200, 0));
    Ok(())
}

/// Who asks for a block, a CAR or a record gets that, or a word that it is not given: never the bytes of a file instead.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_in_another_form_is_given_so_or_refused() -> TestResult {
    let (served, repo, _dir) = core().await;
    let (package, database) = (repo.file_name("zlib")?, format!("/ipns/{NAME}/core.db"));
    let large = format!("/ipns/{NAME}/{package}");
    let refused = [
        (format!("{large}?format=raw"), ""),
        (format!("{large}?format=car"), ""),
        (format!("{database}?format=car"), ""),
        (format!("{database}?format=tar"), ""),
        (format!("/ipns/{NAME}/?format=raw"), ""),
        (format!("/ipns/{NAME}?format=ipns-record"), ""),
        (large.clone(), "Accept: application/vnd.ipld.raw"),
        (database.clone(), "Accept: application/vnd.ipld.car; version=1"),
        (database.clone(), "Accept: application/vnd.ipfs.ipns-record"),
    ];
    for (path, accept) in &refused {
        let headers: Vec<&str> = Some(*accept)
            .filter(|line| !line.is_empty())
            .into_iter()
            .collect();
        for method in ["GET", "HEAD"] {
            let got = served.ask(method, path, &headers).await;
            assert_eq!(got.status, 406, "{method} {path} {accept}");
        }
    }
    // A file of one leaf is that block.
    let whole = served.get(&database, &["Accept: */*"]).await;
    let block: Cid = whole.header("etag").trim_matches('"').parse()?;
    let raw = "application/vnd.ipld.raw";
    for (path, accept) in [
        (format!("{database}?format=raw"), "Accept: */*".to_owned()),
        (database.clone(), format!("Accept: {raw}")),
        (
            format!("/ipfs/{block}?format=raw"),
            format!("Accept: {raw}, application/vnd.ipld.car"),
        ),
    ] {
        let got = served.get(&path, &[&accept]).await;
        assert_eq!(
            (got.status, got.header("content-type")),
            (200, raw),
            "{path} {accept}"
        );
        pacstore_dag::verify(&block, &got.body)?;
    }
    let either = served
        .get(&large, &["Accept: application/vnd.ipld.car, */*;q=0.1"])
        .await;
    assert!(either.status == 200 && either.body == repo.bytes("zlib")?);
    assert_eq!(
        served.get("/ipns/no.such.mirror/x?format=raw", &[]).await.status,
        404
    );
    Ok(())
}
