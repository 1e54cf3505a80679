//! CAR streams: written and read back, foreign fixtures, and streams that mislead.

use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dag::car::{ReadCarError, Reader, Writer};
use dag::{Block, Cid, HashKind, Kind, ReadError};
use pacstore_dag as dag;

use crate::support::{Blocks, prng, shared, unhex};

fn block(data: &[u8]) -> Block {
    Block {
        cid: dag::raw_cid(HashKind::Sha2_256, data),
        data: Bytes::copy_from_slice(data),
    }
}

fn written(roots: &[Cid], blocks: &[Block]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), roots).unwrap();
    for block in blocks {
        writer.write(&block.cid, &block.data).unwrap();
    }
    writer.finish().unwrap()
}

/// Gives one byte at a time.
struct Slow<'a>(&'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = out.len().min(1);
        self.0.read(&mut out[..n])
    }
}

#[test]
fn what_is_written_is_read_back_in_any_pieces() {
    let blocks = vec![block(b""), block(b"one"), block(&prng(dag::MAX_BLOCK, "largest"))];
    for roots in [vec![], vec![blocks[1].cid], vec![blocks[0].cid; 300]] {
        let car = written(&roots, &blocks);
        let reader = Reader::new(&car[..]).unwrap();
        assert_eq!(reader.roots(), roots);
        assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), blocks);
    }
    let car = written(&[], &blocks[..2]);
    assert_eq!(Reader::new(Slow(&car)).unwrap().map(Result::unwrap).count(), 2);
}

#[test]
fn the_header_is_that_of_the_specification() {
    let root: Cid = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
        .parse()
        .unwrap();
    let want = [
        unhex("3aa265726f6f747381d82a582500"),
        root.to_bytes(),
        unhex("6776657273696f6e01"),
    ];
    assert_eq!(written(&[root], &[]), want.concat());
}

#[test]
fn streams_that_mislead_are_errors() {
    let good = written(&[], &[block(b"one"), block(b"two")]);
    let header = good[0] as usize + 1;
    let read = |bytes: &[u8]| Reader::new(bytes).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    assert_eq!(read(&good).unwrap().len(), 2);
    // Wrong bytes.
    let mut wrong = good.clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert!(matches!(read(&wrong), Err(ReadCarError::Block { index: 2, .. })));
    let mut reader = Reader::new(&wrong[..]).unwrap();
    assert!(reader.next().unwrap().is_ok() && reader.next().unwrap().is_err() && reader.next().is_none());
    // Cut anywhere but between blocks.
    let section = (good.len() - header) / 2;
    for end in 0..good.len() {
        let whole = end == header || end == header + section;
        assert_eq!(read(&good[..end]).is_ok(), whole, "{end}");
    }
    // A length without end, too long a length, and none.
    let with = |tail: &[u8]| read(&[&good[..header], tail].concat());
    assert!(matches!(
        with(&[0xff; 20]),
        Err(ReadCarError::Length { index: 1, .. })
    ));
    assert!(matches!(
        with(&[0xff, 0xff, 0xff, 0x7f]),
        Err(ReadCarError::Length { index: 1, .. })
    ));
    assert!(matches!(
        with(&[0]),
        Err(ReadCarError::Length { index: 1, len: 0 })
    ));
    assert!(matches!(with(&[3, 1, 2, 3]), Err(ReadCarError::Cid { index: 1 })));
    // Headers.
    let header_of = |cbor: &str| {
        let cbor = unhex(cbor);
        read(&[vec![cbor.len() as u8], cbor].concat())
    };
    assert!(matches!(
        header_of("a16776657273696f6e02"),
        Err(ReadCarError::Version(2))
    ));
    assert!(
        header_of("a26776657273696f6e0165726f6f747380").is_ok(),
        "keys in the other order"
    );
    for bad in [
        "",
        "80",
        "a16776657273696f6e01",
        "a165726f6f747380",
        "a265726f6f74738065726f6f747380",
        "a1",
        "bf",
    ] {
        assert!(header_of(bad).is_err(), "{bad}");
    }
    // An array of 2^60 roots does not make us allocate.
    assert!(header_of("a265726f6f74739b1000000000000000").is_err());
    assert!(matches!(read(&[]), Err(ReadCarError::Header(_))));
}

fn cars(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            cars(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "car") {
            out.push(path);
        }
    }
}

/// Reads everything below a root; gives how many files, directories and hostile directories there are.
fn read_all(root: &Cid, blocks: &Blocks) -> [usize; 3] {
    let (mut files, mut directories, mut hostile, mut todo) = (0, 0, 0, vec![*root]);
    while let Some(cid) = todo.pop() {
        match dag::resolve(&cid, &[], blocks).map(|found| found.kind) {
            Ok(Kind::Raw | Kind::File { .. }) => {
                let Ok(file) = dag::describe(&cid, blocks) else {
                    continue;
                };
                let leaves = file.leaves.iter().filter_map(|leaf| {
                    let data = dag::leaf_data(&leaf.cid, blocks.get(&leaf.cid)?).unwrap();
                    assert_eq!(data.len() as u64, leaf.len);
                    Some(leaf.len)
                });
                assert!(leaves.sum::<u64>() <= file.len);
                files += 1;
            }
            Ok(Kind::Directory) => {
                // Two fixtures are directories with entries made to reach out of them, such as `../foo.txt`.
                let Ok(entries) = dag::list(&cid, blocks) else {
                    hostile += 1;
                    continue;
                };
                for (name, entry) in entries {
                    assert_eq!(
                        dag::resolve(&cid, &[&name], blocks).map_or(entry.cid, |found| found.cid),
                        entry.cid
                    );
                    todo.push(entry.cid);
                }
                directories += 1;
            }
            Ok(Kind::Symlink(_) | Kind::Other { .. }) | Err(ReadError::Missing(_)) => {}
            Err(error) => panic!("{cid}: {error}"),
        }
    }
    [files, directories, hostile]
}

#[test]
fn the_fixtures_of_gateway_conformance_are_read() {
    let Some(folder) = shared("gateway-fixtures") else {
        return;
    };
    let mut paths = Vec::new();
    cars(&folder, &mut paths);
    assert_eq!(paths.len(), 26);
    let mut counts = [0; 3];
    for path in paths {
        let bytes = std::fs::read(&path).unwrap();
        let mut reader = Reader::new(&bytes[..]).unwrap();
        let roots = reader.roots().to_vec();
        let mut blocks = Blocks::new();
        while let Some(block) = reader
            .next_block()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        {
            dag::links(&block.cid, &block.data).unwrap();
            blocks.insert(block.cid, block.data);
        }
        let ours: Vec<Block> = Reader::new(&bytes[..]).unwrap().map(Result::unwrap).collect();
        assert_eq!(written(&roots, &ours), bytes, "{}: written back", path.display());
        for root in &roots {
            counts
                .iter_mut()
                .zip(read_all(root, &blocks))
                .for_each(|(sum, count)| *sum += count);
        }
    }
    let [files, directories, hostile] = counts;
    assert!(files > 50 && directories > 20 && hostile == 2, "{counts:?}");
}
