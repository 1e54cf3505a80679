//! A gateway that ends while pacman is between two files, or between a file and its signature.

use pacstore_http::{Gateway, Limits, serve_with};
use pacstore_import::Files;
use pacstore_testkit::{TestResult, random};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::client::Served;
use crate::nodes::{NAME, Plan};

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_file_still_gets_its_signature_and_new_files_are_refused() -> TestResult {
    let dir = tempfile::tempdir()?;
    let big = random(4, 40 << 20);
    fs_err::write(dir.path().join("big"), &big)?;
    fs_err::write(dir.path().join("small"), b"a package")?;
    fs_err::write(dir.path().join("small.sig"), b"its signature")?;
    let node = Plan::importer(dir.path(), Files::All).start().await;
    node.import().await;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let gateway = Gateway::new(node.node.clone(), Vec::new());
    let tasks = node.node.tasks();
    let serving = serve_with(listener, gateway.clone(), tasks.clone(), Limits::default());
    tasks.spawn("gateway", serving);
    let served = Served { node, address };

    // Somebody reads slowly.
    let mut open = TcpStream::connect(address).await?;
    let text = format!("GET /ipns/{NAME}/big HTTP/1.1\r\nHost: {address}\r\n\r\n");
    open.write_all(text.as_bytes()).await?;
    let mut first = vec![0; 1000];
    open.read_exact(&mut first).await?;
    let [small, signature] = ["small", "small.sig"].map(|file| format!("/ipns/{NAME}/{file}"));
    assert_eq!(served.get(&small, &[]).await.body, b"a package");

    let asks = async {
        loop {
            let refused = served.get(&small, &[]).await;
            if refused.status == 503 {
                break;
            }
            assert_eq!(refused.status, 200, "before it begins to leave");
        }
        assert_eq!(served.get(&signature, &[]).await.body, b"its signature");
    };
    tokio::join!(gateway.leave(), asks);
    let mut rest = Vec::new();
    // Broken, or closed: what was announced does not come.
    let _cut = open.read_to_end(&mut rest).await;
    assert!(rest.len() < big.len() - 1000, "{} bytes", rest.len());
    served.node.stop().await;
    Ok(())
}
