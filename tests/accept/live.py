#!/usr/bin/env python3
"""The 45 updates of a real repository as a live upstream, and pacman beside it all the while. Run by live.sh.

    live.py FIXTURE UP GATEWAY PLAIN WORK SECONDS PACMAN...

Moves the folder UP from update to update, SECONDS each, as a real mirror does: packages, then databases, then removals, each
file by rename. An importer reads UP meanwhile. Each PACMAN in turn syncs and upgrades from GATEWAY (the importer's own), and a
twin of it, with a root of its own, does the same from PLAIN, an ordinary web server of UP: what it cannot do is what a plain
mirror could not at that moment.

Held: no transaction by GATEWAY fails; what one run synced is of one update; updates are only seen forwards, none before it was
there; packages are those of that update; installed versions move as the fixture's do; at the end everything is the last update.
Prints lines `ok TEXT`, `no TEXT` and `  TEXT`. PACSTORE_SEED repeats the choices. Exit 0 if it ran to its end.
"""
import collections
import gzip
import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import threading
import time

FIXTURE, UP, GATEWAY, PLAIN, WORK, SECONDS = sys.argv[1:7]
PACMANS, SECONDS = sys.argv[7:], float(SECONDS)
REPO, FOLDER = "arcolinux_repo_testing", "x86_64"
SEED = int(os.environ.get("PACSTORE_SEED", os.getpid()))
CLOCK = "20250413T120000"  # the key has expired since
LONGEST = 60  # seconds that one pacman run may take
SETTLE = 90  # seconds for the importer to reach the last update


def manifest(number):
    """Path -> (sha256, size, mtime) of the files that update `number` has."""
    rows = (line.rstrip("\n").split("\t") for line in open(f"{FIXTURE}/snapshots/{number:03}/manifest"))
    return {row[0]: (row[1], int(row[2]), int(row[3])) for row in rows if row[5] == "present"}


NUMBERS = sorted(int(name) for name in os.listdir(f"{FIXTURE}/snapshots") if name.isdigit())
STATES = {number: manifest(number) for number in NUMBERS}
BY_DIGEST = collections.defaultdict(set)  # (name of a database or its signature, sha256) -> updates
for number, state in STATES.items():
    for path, (sha256, _, _) in state.items():
        BY_DIGEST[os.path.basename(path), sha256].add(number)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


class Mirror(threading.Thread):
    """Moves UP from update to update."""

    def __init__(self):
        super().__init__(daemon=True)
        self.dice = random.Random(SEED)
        self.shown = 0  # the newest update whose database is there
        self.error = None

    def run(self):
        try:
            for number in NUMBERS:
                self.update(number)
        except Exception as error:  # told by whoever waits for it
            self.error = error

    def update(self, number):
        begun = time.monotonic()
        new = {path: row for path, row in STATES[number].items() if row != self.there(number).get(path)}
        packages = [path for path in new if ".pkg." in path]
        self.dice.shuffle(packages)
        for path in packages:
            self.put(path, new[path])
        self.until(begun + SECONDS * 0.4)
        # A mirror's databases and their signatures do not come at one instant either.
        gap = self.dice.choice([0, 0, 0.05, 0.2]) * SECONDS
        others = sorted((path for path in new if ".pkg." not in path), key=lambda path: (path.count(".db"), path))
        for path in others:
            if path.endswith(f"{REPO}.db"):
                self.shown = number
            self.put(path, new[path])
            time.sleep(gap)
        self.until(begun + SECONDS * 0.7)
        for path in self.there(number):
            if path not in STATES[number]:
                os.unlink(f"{UP}/{path}")
        self.until(begun + SECONDS)

    def there(self, number):
        return STATES.get(number - 1, {})

    def put(self, path, row):
        sha256, _, mtime = row
        beside = f"{UP}/{os.path.dirname(path)}/.~tmp~.{os.path.basename(path)}"
        os.makedirs(os.path.dirname(beside), exist_ok=True)
        shutil.copyfile(f"{FIXTURE}/blobs/{sha256}", beside)
        os.utime(beside, (mtime, mtime))
        os.rename(beside, f"{UP}/{path}")

    def until(self, moment):
        time.sleep(max(0, moment - time.monotonic()))


class Pacman:
    """One pacman with a root of its own and one server."""

    def __init__(self, program, name, server):
        self.program, self.dir = program, f"{WORK}/{name}"
        self.runs = self.failed = self.synced = self.installed = 0
        self.said, self.wrong, self.seen, self.versions, self.checked = [], [], set(), {}, set()
        for folder in ("root", "db", "cache", "hooks"):
            os.makedirs(f"{self.dir}/{folder}")
        os.makedirs(f"{self.dir}/gpg", mode=0o755)
        self.keyring()
        with open(f"{self.dir}/pacman.conf", "w") as file:
            file.write(
                f"[options]\nArchitecture = x86_64\nSigLevel = Required TrustedOnly\nParallelDownloads = 5\n"
                f"CacheDir = {self.dir}/cache/\n[{REPO}]\nServer = {server}\n"
            )

    def keyring(self):
        home = f"{self.dir}/gpg"
        open(f"{home}/pubring.gpg", "w").close()
        with open(f"{home}/gpg.conf", "w") as file:
            file.write(f"no-permission-warning\nlock-never\nno-greeting\nno-auto-check-trustdb\nfaked-system-time {CLOCK}!\n")
        gpg = ["gpg", "--homedir", home, "--batch", "-q"]
        subprocess.run([*gpg, "--import", f"{FIXTURE}/keys/arcolinux.gpg"], check=True, capture_output=True)
        keys = subprocess.run([*gpg, "--with-colons", "--list-keys"], check=True, capture_output=True, text=True).stdout
        trust = "".join(line.split(":")[9] + ":6:\n" for line in keys.splitlines() if line.startswith("fpr"))
        subprocess.run([*gpg, "--import-ownertrust"], check=True, capture_output=True, text=True, input=trust)
        subprocess.run([*gpg, "--check-trustdb"], capture_output=True)

    def end(self):
        subprocess.run(["gpgconf", "--homedir", f"{self.dir}/gpg", "--kill", "all"], capture_output=True)

    def run(self, *words):
        """One pacman run; False and its words in `said` if it failed."""
        command = [self.program, "--noconfirm", "--noprogressbar", "--color", "never", "--noscriptlet"]
        command += ["--config", f"{self.dir}/pacman.conf", "--root", f"{self.dir}/root", "--dbpath", f"{self.dir}/db"]
        command += ["--gpgdir", f"{self.dir}/gpg", "--hookdir", f"{self.dir}/hooks", "--logfile", f"{self.dir}/log", *words]
        self.runs += 1
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LONGEST)
        if ran.returncode:
            self.failed += 1
            lines = ran.stdout.decode(errors="replace").splitlines()
            bad = [line for line in lines if "error:" in line] or lines[-2:]
            self.said.append(f"pacman {' '.join(words)}: {'; '.join(bad[:3])}")
        return ran.returncode == 0

    def of_one_update(self, kinds, what):
        """The updates that all of these synced files are of."""
        names = [f"{REPO}.{kind}{end}" for kind in kinds for end in ("", ".sig")]
        found = [BY_DIGEST.get((name, digest(f"{self.dir}/db/sync/{name}")), set()) for name in names]
        both = set.intersection(*found)
        if not both:
            self.wrong.append(f"{what}: a mix: {dict(zip(names, map(sorted, found)))}")
        return both

    def database(self):
        """Name -> (version, file, sha256) of the synced database."""
        with open(f"{self.dir}/db/sync/{REPO}.db", "rb") as file:
            packed = gzip.decompress(file.read())
        found = {}
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            for member in archive:
                if member.name.endswith("/desc"):
                    text = archive.extractfile(member).read().decode()
                    fields = dict(part.split("\n", 1) for part in text.strip().split("\n\n"))
                    found[fields["%NAME%"]] = tuple(fields[f"%{key}%"] for key in ("VERSION", "FILENAME", "SHA256SUM"))
        return found

    def local(self):
        names = (name for name in os.listdir(f"{self.dir}/db/local") if os.path.isdir(f"{self.dir}/db/local/{name}"))
        return dict((name.rsplit("-", 2)[0], name.split("-", name.count("-") - 1)[-1]) for name in names)

    def look(self, update):
        """After a transaction with the database of `update`: packages and versions."""
        database, local = self.database(), self.local()
        for name, version in local.items():
            history = HISTORY[name]
            before = self.versions.get(name)
            if version not in history or (before and history.index(version) < history.index(before)):
                self.wrong.append(f"{name} went from {before} to {version}")
            self.versions[name] = version
            if name in database and database[name][0] != version:
                self.wrong.append(f"update {update} has {name} {database[name][0]}, installed is {version}")
        # Upstream's packages come before its database, so their signatures may be the next update's already.
        signed = STATES[update] if update == NUMBERS[-1] else {**STATES[update], **STATES[update + 1]}
        for name, (_, file, sha256) in database.items():
            cached = f"{self.dir}/cache/{file}"
            if not os.path.exists(cached):
                continue
            # Each download once: what an older update had under this name may stay in the cache.
            stat = os.stat(cached)
            download = (file, stat.st_ino, stat.st_mtime_ns)
            if download in self.checked:
                continue
            self.checked.add(download)
            if digest(cached) != sha256:
                self.wrong.append(f"update {update}: {file} has other bytes")
            allowed = [state.get(f"{FOLDER}/{file}.sig", ("",))[0] for state in (STATES[update], signed)]
            if digest(f"{cached}.sig") not in allowed:
                self.wrong.append(f"update {update}: {file}.sig is of neither update")
        self.installed = len(local)


HISTORY = collections.defaultdict(list)


def histories():
    """All versions of each package, in the order of updates."""
    for number in NUMBERS:
        for path in STATES[number]:
            name = os.path.basename(path)
            if name.endswith(".pkg.tar.zst"):
                parts = name[: -len(".pkg.tar.zst")].rsplit("-", 3)
                version = f"{parts[1]}-{parts[2]}"
                if version not in HISTORY[parts[0]]:
                    HISTORY[parts[0]].append(version)


def turn(pacman, mirror, dice, strict, forwards):
    """What somebody does who updates: one run or two, sometimes with a while in between."""
    many = dice.random() < 0.5
    if many:
        if not pacman.run("-Sy"):
            return
    elif not pacman.run("-Syu", "-dd"):
        return
    shown = mirror.shown
    pacman.synced += 1
    update = None
    if strict:
        found = pacman.of_one_update(["db"], "-Sy")
        updates = [one for one in found if forwards["last"] <= one <= shown]
        if not updates:
            pacman.wrong.append(f"synced {sorted(found)} after {forwards['last']}, upstream shows {shown}")
            return
        update = min(updates)
        forwards["last"] = update
        pacman.seen.add(update)
        if dice.random() < 0.3 and pacman.run("-Fy"):
            if update not in pacman.of_one_update(["db", "files"], "-Fy"):
                pacman.wrong.append(f"-Fy is not of update {update}")
    if many:
        time.sleep(dice.random() * SECONDS * 1.5)
        if not pacman.run("-Su", "-dd"):
            return
    names = sorted(pacman.database())
    wanted = [name for name in names if name not in pacman.local()]
    dice.shuffle(wanted)
    if wanted and not pacman.run("-S", "-dd", "--needed", *wanted[: dice.randint(1, 4)]):
        return
    if strict:
        pacman.look(update)


def beside(pacman, mirror, dice):
    """The twin's turn. Nothing is demanded of a plain mirror."""
    try:
        turn(pacman, mirror, dice, False, None)
    except (OSError, KeyError, subprocess.TimeoutExpired, tarfile.TarError) as error:
        pacman.said.append(repr(error))


def main():
    histories()
    print(f"  PACSTORE_SEED={SEED}, {len(NUMBERS)} updates of {SECONDS} s each", flush=True)
    mirror, dice = Mirror(), random.Random(SEED + 1)
    pairs = []
    for number, program in enumerate(PACMANS):
        version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        version = version[version.find("Pacman v") :].split()[1].rstrip(",")
        pairs.append((version, Pacman(program, f"by-us-{number}", GATEWAY), Pacman(program, f"plain-{number}", PLAIN)))
    forwards = {"last": 0}
    mirror.update(NUMBERS.pop(0))
    until = time.monotonic() + SETTLE
    while not pairs[0][1].run("-Sy"):  # the importer's first tree
        if time.monotonic() > until:
            print(f"no   live: no first tree: {pairs[0][1].said[-1]}")
            return 1
        time.sleep(0.2)
    pairs[0][1].failed, pairs[0][1].said = 0, []
    mirror.start()
    while mirror.is_alive():
        for _, ours, plain in pairs:
            seed = dice.random()
            twin = threading.Thread(target=beside, args=(plain, mirror, random.Random(seed)))
            twin.start()
            turn(ours, mirror, random.Random(seed), True, forwards)
            twin.join()
    if mirror.error:
        print(f"no   live: the upstream: {mirror.error!r}")
        return 1
    last, until = mirror.shown, time.monotonic() + SETTLE
    for version, ours, plain in pairs:
        while forwards["last"] < last and time.monotonic() < until:
            turn(ours, mirror, dice, True, forwards)
        turn(ours, mirror, dice, True, forwards)
        verdicts(version, ours, plain, last, forwards)
    for _, *both in pairs:
        for pacman in both:
            pacman.end()
    return 0


def verdicts(version, ours, plain, last, forwards):
    def say(good, text, details):
        print(f"{'ok' if good else 'no'}   live: pacman {version}: {text}")
        for detail in details[:10]:
            print(f"  {detail}")

    share = f"{ours.runs} runs, {ours.failed} failed; of a plain mirror's {plain.runs}, {plain.failed} failed"
    say(ours.failed == 0 and ours.runs > 10, share, ours.said)
    say(
        not ours.wrong and len(ours.seen) > 3,
        f"{ours.synced} syncs of {len(ours.seen)} updates, each of one, forwards only; {ours.installed} packages installed",
        ours.wrong,
    )
    say(forwards["last"] == last, f"update {forwards['last']} of {last} at the end", [])
    for word in plain.said[:3]:
        print(f"  plain mirror: {word}")


sys.exit(main())
