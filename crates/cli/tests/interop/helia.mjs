// What the tests ask of Helia beside what its own client and server can: whole trees and the
// bytes of records. Read from standard input in the folder of the Helia peer (peer.mjs):
//
//   node --import ./node20.mjs --input-type=module - COMMAND ... < helia.mjs
//     fetch MULTIADDR CID         every entry below CID over Bitswap, a line each: path, type, size, sha256
//     record MULTIADDR NAME       the record over /libp2p/fetch/0.0.1, checked by Helia
//     serve DIR                   adds DIR, prints its CID and an address, serves until killed
import { startNode, args, out } from './peer.mjs'
import { multiaddr } from '@multiformats/multiaddr'
import { CID } from 'multiformats/cid'
import { base36 } from 'multiformats/bases/base36'
import { multihashToIPNSRoutingKey, ipnsValidator } from '@helia/ipns'
import { createHash } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { createReadStream, readdirSync } from 'node:fs'
import { join } from 'node:path'

const options = args()
const [command, first, second] = options._
const signal = AbortSignal.timeout(120000)
setMaxListeners(0, signal)
// The names here are gossiped by nobody: without pubsub the node starts faster.
const node = await startNode({ ...options, pubsub: false })

// Files asked at once: enough to keep the line busy, few enough to stay a well-behaved peer.
const AT_ONCE = 32

async function fetchTree (root) {
  const running = new Set()
  const wait = async (most) => { while (running.size > most) await Promise.race(running) }
  const take = async (path, cid) => {
    const hash = createHash('sha256')
    let size = 0
    for await (const piece of node.fs.cat(cid, { signal })) { hash.update(piece); size += piece.length }
    out({ event: 'entry', path, type: 'file', size, sha256: hash.digest('hex') })
  }
  const walk = async (path, cid) => {
    out({ event: 'entry', path, type: 'directory' })
    for await (const entry of node.fs.ls(cid, { signal })) {
      const below = path === '' ? entry.name : `${path}/${entry.name}`
      const stat = entry.cid.code === 0x55 ? { type: 'raw' } : await node.fs.stat(entry.cid, { signal })
      if (stat.type === 'directory') { await walk(below, entry.cid); continue }
      await wait(AT_ONCE - 1)
      const one = take(below, entry.cid).finally(() => running.delete(one))
      running.add(one)
    }
  }
  await walk('', root)
  await Promise.all(running)
}

function * entries (dir, path) {
  yield { path }
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    const full = join(dir, entry.name)
    if (entry.isDirectory()) yield * entries(full, `${path}/${entry.name}`)
    else yield { path: `${path}/${entry.name}`, content: createReadStream(full) }
  }
}

const connect = () => node.libp2p.dial(multiaddr(first), { signal })
let code = 0
try {
  if (command === 'fetch') {
    await connect()
    await fetchTree(CID.parse(second))
    out({ event: 'done' })
  } else if (command === 'record') {
    const connection = await connect()
    const key = multihashToIPNSRoutingKey(CID.parse(second, base36).multihash)
    const record = await node.libp2p.services.fetch.fetch(connection.remotePeer, key, { signal })
    if (record == null) throw new Error('the peer has no record')
    await ipnsValidator(key, record, node.helia.keychain)
    out({ event: 'record', hex: Buffer.from(record).toString('hex') })
  } else if (command === 'serve') {
    let root
    for await (const added of node.fs.addAll(entries(first, 'root'))) root = added.cid
    const addresses = node.libp2p.getMultiaddrs().map(String)
    out({ event: 'serving', cid: root.toString(), address: addresses[0] })
    await new Promise(() => setInterval(() => {}, 60000))
  } else throw new Error(`unknown command ${command}`)
} catch (error) {
  out({ event: 'error', error: String(error.stack ?? error), errors: error.errors?.map(String) })
  code = 1
}
await node.helia.stop()
process.exit(code)
