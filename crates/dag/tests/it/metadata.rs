//! Nodes with mode and mtime are read as if they had none.

use bytes::Bytes;
use dag::{Cid, Kind};
use pacstore_dag as dag;

use crate::support::{Blocks, json, unhex};

#[test]
fn nodes_with_mode_and_mtime_are_read() {
    let Some(vectors) = json("unixfs-extra-vectors.json") else {
        return;
    };
    let nodes = vectors["metadata_cidv0"].as_array().unwrap();
    assert_eq!(nodes.len(), 14);
    for node in nodes {
        let name = node["name"].as_str().unwrap();
        let cid: Cid = node["cid"].as_str().unwrap().parse().unwrap();
        let data = Bytes::from(unhex(node["blockHex"].as_str().unwrap()));
        assert_eq!(dag::verify(&cid, &data), Ok(()), "{name}");
        let blocks = Blocks::from([(cid, data.clone())]);
        match dag::kind(&cid, &data).unwrap() {
            Kind::File { len } => {
                assert_eq!(dag::describe(&cid, &blocks).unwrap().len, len, "{name}");
                assert_eq!(dag::leaf_data(&cid, &data).unwrap().len() as u64, len, "{name}");
            }
            Kind::Directory => assert_eq!(dag::list(&cid, &blocks).unwrap(), vec![], "{name}"),
            Kind::Symlink(target) => assert!(!target.is_empty(), "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn cids_of_kubos_tests_with_metadata_are_among_the_nodes_read() {
    let (Some(extra), Some(rows)) = (json("unixfs-extra-vectors.json"), json("kat-results.json")) else {
        return;
    };
    let known: Vec<&str> = extra["metadata_cidv0"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["cid"].as_str().unwrap())
        .collect();
    let stated = rows.as_array().unwrap().iter().filter(|row| {
        let name = row["name"].as_str().unwrap();
        name.contains("mode") || name.contains("mtime")
    });
    let cids: Vec<_> = stated.map(|row| row["expect"].as_str().unwrap()).collect();
    assert_eq!(cids.len(), 11);
    let others: Vec<_> = cids.into_iter().filter(|cid| !known.contains(cid)).collect();
    // Only an empty directory with a time of whole seconds is not among them; its bytes are these.
    let [other] = others[..] else { panic!("{others:?}") };
    let data = unhex("0a0a080142060888a6d0fc05");
    let cid: Cid = other.parse().unwrap();
    assert_eq!(dag::verify(&cid, &data), Ok(()));
    assert_eq!(dag::kind(&cid, &data).unwrap(), Kind::Directory);
}
