//! Files that others made, in shapes that we never make, by their CIDs alone.

use bytes::Bytes;
use cid::Cid;
use cid::multihash::Multihash;
use pacstore_dag::{
    self as dag, Block, Chunker, FileBuilder, FileDag, HashKind, Parameters, Profile, RAW, raw_cid,
};
use pacstore_node::{Answer, Node};
use pacstore_testkit::{TestResult, random};

use crate::nodes::{Failure, Plan, SOON, TestNode};

/// A node of which everybody may ask any CID, connected to `peers`.
fn plan(peers: Vec<pacstore_net::Multiaddr>) -> Plan {
    let mut plan = Plan::client(Vec::new(), peers);
    plan.config.open = true;
    plan
}

/// A node that has `blocks`, and who will ask it, connected.
async fn giver_and_client(blocks: &[Block]) -> Result<(TestNode, TestNode), Failure> {
    let giver = plan(Vec::new()).start().await;
    giver.node.store().put_nodes(blocks)?;
    let client = plan(vec![giver.address().await]).start().await;
    client.connected().await;
    Ok((giver, client))
}

async fn ask(node: &TestNode, root: &Cid) -> Result<Vec<u8>, Failure> {
    let asked = tokio::time::timeout(SOON, node.node.ask_cid(root, &[])).await??;
    let Answer::File(file) = asked else {
        return Err(format!("{root} is {asked:?}").into());
    };
    node.part(&file, 0, file.len).await
}

/// Blocks that `client` got from `giver`, once or again.
fn blocks_from(client: &Node, giver: &Node) -> u64 {
    let peer = giver.peer_id().expect("it has a network");
    let traffic = client.net().expect("it has a network").bitswap().ledger(&peer);
    traffic.blocks_received + traffic.duplicates + traffic.unwanted
}

fn blocks_of(data: &[u8], file: &FileDag) -> Vec<Block> {
    let raw = file
        .leaves
        .iter()
        .filter(|leaf| leaf.is_raw() && dag::inline_data(&leaf.cid).is_none());
    let raw = raw.map(|leaf| Block {
        cid: leaf.cid,
        data: Bytes::copy_from_slice(&data[leaf.offset as usize..][..leaf.len as usize]),
    });
    raw.chain(file.nodes.iter().cloned()).collect()
}

fn inline(piece: &[u8]) -> Cid {
    Cid::new_v1(RAW, Multihash::wrap(dag::IDENTITY, piece).unwrap())
}

fn profile(parameters: Parameters) -> Profile {
    Profile::custom(parameters).unwrap()
}

/// Kubo's `--inline` puts short leaves into their CIDs.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_last_leaf_stands_in_its_cid_comes_is_kept_and_is_given_on() -> TestResult {
    let data = random(1, 2 * 1000 + 30).to_vec();
    let small = profile(Parameters {
        chunker: Chunker::Fixed(1000),
        ..*Profile::UNIXFS_V1_2025.parameters()
    });
    let leaves = data.chunks(1000).map(|piece| {
        let cid = if piece.len() < 64 {
            inline(piece)
        } else {
            raw_cid(HashKind::Sha2_256, piece)
        };
        (cid, piece.len() as u64)
    });
    let file = dag::from_leaves(&small, leaves.collect())?;
    let (giver, client) = giver_and_client(&blocks_of(&data, &file)).await?;
    assert_eq!(ask(&client, &file.root).await?, data);
    client.idle().await;
    giver.stop().await;
    let client = client.stop().await.start().await;
    assert_eq!(ask(&client, &file.root).await?, data, "from disk");
    let other = plan(vec![client.address().await]).start().await;
    other.connected().await;
    assert_eq!(
        ask(&other, &file.root).await?,
        data,
        "from the one that fetched it"
    );
    Ok(())
}

/// Such a file has no block that could be kept, and needs none.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_stands_in_its_cid_is_asked_of_nobody() -> TestResult {
    let client = plan(Vec::new()).start().await;
    let wrapped = [&[0x0a, 9, 0x08, 2, 0x12, 3][..], b"abc", &[0x18, 3]].concat();
    let node = Cid::new_v1(dag::DAG_PB, Multihash::wrap(dag::IDENTITY, &wrapped)?);
    for root in [inline(b"abc"), node] {
        assert_eq!(ask(&client, &root).await?, b"abc", "{root}");
    }
    Ok(())
}

/// The leaves of CIDv0 are nodes, and come with the layout.
#[tokio::test(flavor = "multi_thread")]
async fn leaves_that_are_nodes_are_asked_once() -> TestResult {
    let data = random(2, 20_500).to_vec();
    let wrapped = profile(Parameters {
        chunker: Chunker::Fixed(1000),
        raw_leaves: false,
        ..*Profile::UNIXFS_V1_2025.parameters()
    });
    let mut file = FileBuilder::new(&wrapped);
    file.push(&data);
    let file = file.finish();
    let (giver, client) = giver_and_client(&file.nodes).await?;
    assert_eq!(ask(&client, &file.root).await?, data);
    assert_eq!(blocks_from(&client.node, &giver.node), file.nodes.len() as u64);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_stands_in_many_places_is_asked_once() -> TestResult {
    let same = random(3, 1000);
    let data = [&same.repeat(40)[..], &random(4, 1000), &same, b"end"].concat();
    let small = profile(Parameters {
        chunker: Chunker::Fixed(1000),
        ..*Profile::UNIXFS_V1_2025.parameters()
    });
    let mut file = FileBuilder::new(&small);
    file.push(&data);
    let file = file.finish();
    let (giver, client) = giver_and_client(&blocks_of(&data, &file)).await?;
    assert_eq!(ask(&client, &file.root).await?, data);
    client.idle().await;
    assert_eq!(
        blocks_from(&client.node, &giver.node),
        4,
        "three leaves and the root"
    );
    assert_eq!(
        client.node.store().file(&file.root)?.map(|info| info.len),
        Some(data.len() as u64)
    );
    Ok(())
}

/// Nobody told its length: the block does.
#[tokio::test(flavor = "multi_thread")]
async fn a_raw_block_by_its_cid_is_asked_once_and_is_a_file_from_then_on() -> TestResult {
    let data = random(5, 70_000);
    let root = raw_cid(HashKind::Sha2_256, &data);
    let (giver, client) = giver_and_client(&[Block {
        cid: root,
        data: data.clone(),
    }])
    .await?;
    assert_eq!(ask(&client, &root).await?, data);
    client.idle().await;
    assert_eq!(blocks_from(&client.node, &giver.node), 1);
    giver.stop().await;
    assert_eq!(ask(&client, &root).await?, data);
    let counted = client.node.bytes_out();
    assert_eq!((counted.lan, counted.disk), (140_000, 0), "it came from the peer");
    Ok(())
}

/// A block that is on disk in another shape, as a node or as a part of a file, is not asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_is_here_is_asked_of_nobody() -> TestResult {
    let data = random(6, 5000);
    let root = raw_cid(HashKind::Sha2_256, &data);
    let alone = plan(Vec::new()).start().await;
    alone.node.store().put_nodes(&[Block {
        cid: root,
        data: data.clone(),
    }])?;
    assert_eq!(ask(&alone, &root).await?, data);
    Ok(())
}

/// The root says that its leaf has 900 bytes, and the leaf, which is right, has 1000.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_leaf_is_longer_than_it_says_fails_at_once() -> TestResult {
    let leaf = random(7, 1000);
    let leaf = Block {
        cid: raw_cid(HashKind::Sha2_256, &leaf),
        data: leaf,
    };
    let small = profile(Parameters {
        chunker: Chunker::Fixed(900),
        ..*Profile::UNIXFS_V1_2025.parameters()
    });
    let lie = dag::from_leaves(&small, vec![(leaf.cid, 900), (inline(b"end"), 3)])?;
    let blocks = [&lie.nodes[..], &[leaf]].concat();
    let (_giver, client) = giver_and_client(&blocks).await?;
    let began = std::time::Instant::now();
    let error = ask(&client, &lie.root).await.expect_err("it cannot be had");
    assert!(error.to_string().contains("not that of a file"), "{error}");
    assert!(
        began.elapsed() < std::time::Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}

/// A folder that breaks the rules of folders is no fault of this node's disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_none_and_a_block_of_a_hash_that_is_not_used_are_told_apart() -> TestResult {
    // An entry with the empty name.
    let entry = inline(b"x").to_bytes();
    let len = u8::try_from(entry.len())?;
    let folder = [&[0x12, len + 2, 0x0a, len][..], &entry, &[0x0a, 2, 0x08, 1]].concat();
    let folder = Block {
        cid: dag::cid_of(dag::DAG_PB, HashKind::Sha2_256, &folder),
        data: folder.into(),
    };
    let node = plan(Vec::new()).start().await;
    node.node.store().put_nodes(std::slice::from_ref(&folder))?;
    let sha512 = Cid::new_v1(RAW, Multihash::wrap(0x13, &[7; 64])?);
    for (root, why) in [
        (folder.cid, "no folder that can be listed"),
        (sha512, "its hash function"),
    ] {
        let answer = node.node.ask_cid(&root, &[]).await?;
        assert!(
            matches!(&answer, Answer::NotFound(said) if said.contains(why)),
            "{answer:?}"
        );
    }
    Ok(())
}
