//! A private mirror: only friends learn of it and get its blocks.

use pacstore_import::Files;
use pacstore_net::DhtMode;
use pacstore_testkit::TestResult;

use crate::nodes::{NAME, Plan};
use crate::recorder::Recorder;

#[tokio::test(flavor = "multi_thread")]
async fn a_private_mirror_goes_to_friends_and_to_nobody_else() -> TestResult {
    let dir = tempfile::tempdir()?;
    fs_err::write(dir.path().join("secret"), b"for friends only")?;
    // The friend's peer id is needed before the importer starts: it is made by a first start.
    let friend = Plan::new().start().await;
    let id = friend.node.peer_id().unwrap();
    let mut friend = friend.stop().await;
    let mut plan = Plan::importer(dir.path(), Files::All);
    plan.config.imports[0].public = false;
    plan.config
        .swarm
        .peers
        .push(format!("/ip4/127.0.0.1/tcp/9/p2p/{id}").parse()?);
    let key = plan.key();
    let importer = plan.start().await;
    importer.import().await;

    let stranger = Plan::client(vec![key], vec![importer.address().await])
        .start()
        .await;
    stranger.connected().await;
    stranger.refresh().await;
    assert_eq!(stranger.tree(), None);

    friend.config.mirrors.push(crate::nodes::mirror(vec![key]));
    friend.config.swarm.peers.push(importer.address().await);
    let friend = friend.start().await;
    friend.follows(&importer).await;
    assert_eq!(friend.get("secret").await?, b"for friends only");

    // Nor does the friend hand it on: not the name, not the blocks.
    let root = friend.file("secret").await.root;
    let other = Plan::client(vec![key], vec![friend.address().await])
        .start()
        .await;
    other.connected().await;
    other.refresh().await;
    assert_eq!(other.tree(), None);
    let asked = other
        .node
        .fetcher()
        .block(&root, pacstore_node::AskPeers::Everyone)
        .await;
    assert!(asked.is_err(), "{asked:?}");
    let tree = importer.node.mirror(NAME).unwrap().current().unwrap().head.tree;
    let asked = stranger
        .node
        .fetcher()
        .block(&tree, pacstore_node::AskPeers::Everyone)
        .await;
    assert!(asked.is_err(), "{asked:?}");
    Ok(())
}

/// Until its head is here nothing says that a mirror is private, but the configuration of who follows it may.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_followed_in_private_is_asked_of_friends_alone() -> TestResult {
    let dir = tempfile::tempdir()?;
    fs_err::write(dir.path().join("secret"), b"for friends only")?;
    for public in [false, true] {
        // Ids and keys are made by first starts.
        let mut importing = Plan::importer(dir.path(), Files::All);
        importing.config.imports[0].public = false;
        importing.config.mirrors[0].public = false;
        importing.config.swarm.dht = DhtMode::Server;
        let key = importing.key();
        let importer = importing.start().await;
        importer.import().await;
        let id = importer.node.peer_id().unwrap();
        let mut importing = importer.stop().await;

        // The friend cannot be reached yet when the first question is asked.
        let mut plan = Plan::client(vec![key], vec![format!("/ip4/127.0.0.1/tcp/9/p2p/{id}").parse()?]);
        plan.config.mirrors[0].public = public;
        plan.config.swarm.dht = DhtMode::Server;
        let client = plan.start().await;
        let recorder = Recorder::start();
        recorder.meets(&client).await;
        client.refresh().await;
        assert_eq!(client.tree(), None);
        let said = recorder.log.said(&key.routing_key());
        assert_eq!(!said.is_empty(), public, "{said:?}");

        importing.config.swarm.peers.push(client.address().await);
        let importer = importing.start().await;
        recorder.meets(&importer).await;
        importer.refresh().await;
        client.follows(&importer).await;
        assert_eq!(client.get("secret").await?, b"for friends only");
        client.refresh().await;
        let tree = client.node.mirror(NAME).unwrap().current().unwrap().head.tree;
        let root = client.file("secret").await.root;
        for cid in [tree, root] {
            let said = recorder.log.said(cid.hash().digest());
            assert!(said.is_empty(), "{cid} was said on {said:?}");
        }
        if !public {
            let said = recorder.log.said(&key.routing_key());
            assert!(said.is_empty(), "{said:?}");
        }
    }
    Ok(())
}
