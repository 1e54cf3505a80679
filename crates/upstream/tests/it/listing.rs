//! Directory pages of all styles, fetched and read, give back the names that are there.

use pacstore_testkit::{Listing, TestResult, Upstream};
use pacstore_upstream::{Get, ListEntry, parse_listing, url_of};

use crate::http::{client, url};

#[tokio::test]
async fn every_style_gives_back_every_name_and_its_file() -> TestResult {
    let mirror = Upstream::memory()?;
    let names: [&[u8]; 10] = [
        b"core.db",
        b"vim-2:9.1-1-x86_64.pkg.tar.zst",
        b"a b  c",
        b"100%25",
        b"a&b<c>\"d'",
        "ä-ß.pkg".as_bytes(),
        b"\xff\xfe",
        b"new\nline",
        b"#hash?query",
        b"back\\slash",
    ];
    for name in names {
        mirror.put([b"root/", name].concat(), name.to_vec())?;
    }
    mirror.put("root/os/x", "x")?;
    let (http, folder) = (client(), url(&mirror, "root/"));
    let mut want: Vec<ListEntry> = names
        .iter()
        .map(|n| ListEntry {
            name: n.to_vec(),
            is_dir: false,
        })
        .collect();
    want.push(ListEntry {
        name: b"os".to_vec(),
        is_dir: true,
    });
    want.sort();
    for style in [
        Listing::Nginx,
        Listing::Apache,
        Listing::Python,
        Listing::Lighttpd,
        Listing::Caddy,
    ] {
        mirror.listing(style);
        let mut page = http.get(&Get::new(&folder)).await?;
        let got = parse_listing(&page.bytes().await?, &page.url);
        assert_eq!(got, want, "{style:?}");
    }
    for name in names {
        let file = url_of(&folder, name)?;
        assert_eq!(http.get(&Get::new(&file)).await?.bytes().await?, name);
    }
    Ok(())
}
