// The image without an engine: the Dockerfile's entry point, command, folder and environment, and a service of a compose
// file run by them. As root in a root folder of its own, where the volumes are mounted as an engine mounts them; as another
// user, as with `docker run --user`, in a folder that stands for the image's own.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { chmodSync, copyFileSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Program } from './program.mjs'
import { binary } from './simulator.mjs'

const repository = fileURLToPath(new URL('../../../', import.meta.url))
const SYSTEM = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** The one service of a diff of a compose file, as it is after the change, and how many lines that changed. */
export function service(diff) {
  const made = { volumes: [], environment: [], ports: [], changed: 0 }
  let list
  for (const line of diff.trimEnd().split('\n')) {
    if (line.startsWith('-')) continue
    if (line.startsWith('+')) made.changed += 1
    const text = line.slice(1).trim()
    if (text.startsWith('- ')) made[list].push(text.slice(2).replace(/^"(.*)"$/, '$1'))
    else if (text.endsWith(':')) list = text.slice(0, -1)
    else made[text.split(':')[0]] = text.slice(text.indexOf(':') + 1).trim()
  }
  return made
}

/** What the last stage of the Dockerfile says. */
function dockerfile() {
  const stage = readFileSync(join(repository, 'Dockerfile'), 'utf8').split(/^FROM /m).at(-1)
  const said = (word) => new RegExp(`^${word} (.*)$`, 'm').exec(stage)?.[1]
  const id = Number(/--uid (\d+)/.exec(stage)[1])
  return { id, folder: said('WORKDIR'), environment: [said('ENV')], command: [...JSON.parse(said('ENTRYPOINT')), ...JSON.parse(said('CMD'))] }
}

/** Makes the root folder, then becomes the image's first process. */
const ROOT = `
set -eu
root=$1 binary=$2 entrypoint=$3 users=$4 groups=$5 app=$6 id=$7
shift 7
mount -t tmpfs tmpfs "$root"
for folder in bin sbin lib lib32 lib64 usr etc proc dev; do
  if [ -L "/$folder" ]; then cp -P "/$folder" "$root/$folder"
  elif [ -d "/$folder" ]; then mkdir "$root/$folder"; mount --rbind "/$folder" "$root/$folder"; fi
done
mkdir -m 1777 "$root/tmp"
mount --bind "$users" "$root/etc/passwd"
mount --bind "$groups" "$root/etc/group"
mount -t tmpfs tmpfs "$root/usr/local/bin"
install -m 755 "$entrypoint" "$root/usr/local/bin/entrypoint"
touch "$root/usr/local/bin/wa-gateway"
mount --bind "$binary" "$root/usr/local/bin/wa-gateway"
install -d -o "$id" -g "$id" "$root$app"
while [ "$1" != -- ]; do
  install -d -o "$id" -g "$id" "$root$2"
  mount --bind "$1" "$root$2"
  shift 2
done
shift
exec chroot "$root" env -C "$app" -i "$@"
`

/** Whether this process may mount. */
export function isRoot() {
  if (process.getuid() !== 0) return false
  try {
    execFileSync('unshare', ['--mount', 'true'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

/**
 * Starts the image on a service's volumes, whose relative paths are below `folder`, with its environment and `more`, what
 * stands for the network. `scratch`: an empty folder for what belongs to the image.
 */
export function up({ volumes, environment }, folder, scratch, more) {
  const { id, folder: app, environment: own, command } = dockerfile()
  const mounts = volumes.map((volume) => volume.split(':')).map(([from, to]) => [join(folder, from), to])
  const variables = [...own, ...environment, ...Object.entries(more).map(([name, value]) => `${name}=${value}`)]
  const gateway = binary('WA_GATEWAY_BIN', 'wa-gateway')
  const entrypoint = join(repository, 'docker/entrypoint')
  if (isRoot()) {
    const [root, users, groups] = ['root', 'passwd', 'group'].map((name) => join(scratch, name))
    mkdirSync(root)
    execFileSync('sh', ['-c', `{ cat /etc/passwd; echo gateway:x:${id}:${id}::${app}:/usr/sbin/nologin; } > "$0"`, users])
    execFileSync('sh', ['-c', `{ cat /etc/group; echo gateway:x:${id}:; } > "$0"`, groups])
    const args = ['--mount', 'sh', '-c', ROOT, 'image', root, gateway, entrypoint, users, groups, app, String(id), ...mounts.flat(), '--']
    return { id, program: new Program('gateway', 'unshare', [...args, `PATH=${SYSTEM}`, ...variables, ...command], { PATH: process.env.PATH }, scratch) }
  }
  assert.notEqual(process.getuid(), 0, 'root without the right to mount would change the folders of this machine')
  const programs = join(scratch, 'bin')
  mkdirSync(programs)
  copyFileSync(entrypoint, join(programs, 'entrypoint'))
  chmodSync(join(programs, 'entrypoint'), 0o755)
  symlinkSync(gateway, join(programs, 'wa-gateway'))
  const here = join(scratch, 'app')
  mkdirSync(here)
  for (const [from, to] of mounts) symlinkSync(from, join(here, to.slice(app.length + 1)))
  const env = Object.fromEntries([`PATH=${programs}:${process.env.PATH}`, ...variables].map((text) => [text.slice(0, text.indexOf('=')), text.slice(text.indexOf('=') + 1)]))
  return { id: process.getuid(), program: new Program('gateway', join(programs, command[0]), command.slice(1), env, here) }
}
