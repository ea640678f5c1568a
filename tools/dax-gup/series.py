#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Turn patches/ and the new files into the branch dax-gup, and back.

A patch in patches/ holds the edits to files of the base. The files it adds lie at their
kernel path in the checkout, and the patch names each in a line "New-file: PATH" below its "---".
"""
import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile

BRANCH = "refs/heads/dax-gup"
KNOWN = "refs/dax-gup/known"        # the last tip that the checkout and the branch agreed on
OWN = ("patches/", "tools/dax-gup/", ".ci/")   # of this project, not of the kernel


class Error(Exception):
    pass


def run(cmd, data=None, env=None, cwd=None):
    r = subprocess.run(cmd, input=data, cwd=cwd, env={**os.environ, **(env or {})},
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if r.returncode:
        raise Error((r.stderr.decode().strip() or f"{cmd[0]} {cmd[1]} failed").splitlines()[0])
    return r.stdout


def git(*args, data=None, env=None):
    return run(["git", "-C", opt.linux, *args], data, env)


def text(*args, **kw):
    return git(*args, **kw).decode().strip()


def ref(name):
    r = subprocess.run(["git", "-C", opt.linux, "rev-parse", "-q", "--verify", name + "^{commit}"],
                       stdout=subprocess.PIPE)
    return r.stdout.decode().strip() or None


def is_new_file(path):
    return "/" in path and not path.startswith(OWN)


# The checkout: a dict of path -> (mode, bytes), with patches/series and what it implies.

def read_checkout():
    files = {}
    listed = run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=opt.top)
    for path in filter(None, listed.decode().split("\0")):
        full = os.path.join(opt.top, path)
        if not os.path.lexists(full):
            continue
        if is_new_file(path) or path == "patches/series" or re.fullmatch(r"patches/[^/]*\.patch", path):
            if os.path.islink(full):
                raise Error(f"{path} is a symbolic link, which the series cannot hold")
            mode = "100755" if os.access(full, os.X_OK) else "100644"
            with open(full, "rb") as f:
                files[path] = (mode, f.read())
    return files


def split_patch(name, data):
    """The header, the new files named, and the hunks of a patch."""
    head, sep, rest = data.partition(b"\n---\n")
    if not sep:
        raise Error(f"{name} has no '---' line: write it with make export")
    start = re.search(rb"^diff --git ", rest, re.M)
    notes, hunks = (rest[:start.start()], rest[start.start():]) if start else (rest, b"")
    return head, [m.decode() for m in re.findall(rb"^New-file: (\S+)$", notes, re.M)], hunks


# From the checkout to commits.

def patch_names(files):
    listed = [line.strip() for line in files.get("patches/series", (0, b""))[1].decode().splitlines()]
    listed = ["patches/" + line for line in listed if line and not line.startswith("#")]
    for name in listed:
        if name not in files:
            raise Error(f"patches/series names {name}, which does not exist")
        if listed.count(name) > 1:
            raise Error(f"patches/series names {name} twice")
    for name in files:
        if name.endswith(".patch") and name.startswith("patches/") and name not in listed:
            raise Error(f"{name} is not in patches/series: add it there or remove it")
    return listed


def assemble(files):
    """Commit each patch with its new files on top of the base; returns the tip."""
    tip = ref("base")
    base = set(git("ls-tree", "-r", "-z", "--name-only", tip).decode().split("\0"))
    owner = {}
    with tempfile.TemporaryDirectory() as tmp:
        index = {"GIT_INDEX_FILE": os.path.join(tmp, "index")}
        git("read-tree", tip, env=index)
        for name in patch_names(files):
            data = files[name][1]
            _, new, hunks = split_patch(name, data)
            if re.search(rb"^new file mode ", hunks, re.M):
                raise Error(f"{name} holds a new file as a diff: put it at its path in the checkout "
                            "and name it in a line 'New-file: PATH' below '---'")
            for path in re.findall(rb"^diff --git a/(\S+) ", hunks, re.M):
                if path.decode() in owner:
                    raise Error(f"{name} edits {path.decode()}, which {owner[path.decode()]} adds: squash it")
            if not hunks and not new:
                raise Error(f"{name} changes nothing")
            if hunks:
                try:
                    git("apply", "--cached", "--whitespace=nowarn", "-", data=hunks, env=index)
                except Error as e:
                    raise Error(f"{name} does not apply to {base_name()}: {e}") from None
            for path in new:
                if path in base:
                    raise Error(f"{name} adds {path}, which exists in {base_name()}: make it an edit")
                if path in owner:
                    raise Error(f"{name} adds {path}, which {owner[path]} adds already")
                if path not in files or not is_new_file(path):
                    raise Error(f"{name} names the new file {path}, which is not in the checkout")
                mode, content = files[path]
                blob = text("hash-object", "-w", "--stdin", data=content)
                git("update-index", "--add", "--cacheinfo", f"{mode},{blob},{path}", env=index)
                owner[path] = name
            tip = commit(name, data, text("write-tree", env=index), tip, tmp)
    for path in files:
        if is_new_file(path) and path not in owner:
            raise Error(f"{path} is named by no patch: add 'New-file: {path}' below the '---' of the patch that brings it")
    return tip


def commit(name, data, tree, parent, tmp):
    msg = os.path.join(tmp, "msg")
    info = text("mailinfo", "-b", "--encoding=UTF-8", msg, os.path.join(tmp, "patch"), data=data)
    info = dict(line.split(": ", 1) for line in info.splitlines() if ": " in line)
    try:
        who = {"NAME": info["Author"], "EMAIL": info["Email"], "DATE": info["Date"]}
        with open(msg, "rb") as f:
            message = info["Subject"].encode() + b"\n\n" + f.read()
    except KeyError as e:
        raise Error(f"{name} has no {e.args[0]} in its header: write it with make export") from None
    env = {f"GIT_{role}_{k}": v for role in ("AUTHOR", "COMMITTER") for k, v in who.items()}
    return text("commit-tree", tree, "-p", parent, data=git("stripspace", data=message), env=env)


def base_name():
    return text("log", "-1", "--format=%s", "base")


# From commits to the checkout.

def commits(tip):
    if subprocess.run(["git", "-C", opt.linux, "merge-base", "--is-ancestor", "base", tip]).returncode:
        raise Error("the branch dax-gup is not based on the tag base: git rebase --onto base <old base> dax-gup")
    if text("rev-list", "--merges", f"base..{tip}"):
        raise Error("the branch dax-gup has a merge: git rebase base")
    return text("rev-list", "--reverse", f"base..{tip}").split()


def format_patch(rev, *paths):
    return git("format-patch", "-1", "--stdout", "--zero-commit", "--no-signature", "--no-numbered", "--full-index",
               "--no-renames", rev, *(["--", *(":(literal)" + p for p in paths)] if paths else []))


def export(tip):
    """What the checkout has to hold for the branch to be assembled from it."""
    files, series, owner = {}, [], {}
    for n, rev in enumerate(commits(tip), 1):
        subject, slug = text("log", "-1", "--format=%s%n%f", rev).splitlines()
        new, edits = [], []
        raw = git("diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", "--no-commit-id", rev).decode()
        fields = raw.split("\0")
        for meta, path in zip(fields[0::2], fields[1::2]):
            _, mode, _, blob, status = meta.split()
            if path in owner:
                raise Error(f"'{subject}' changes {path}, which '{owner[path]}' adds: squash it")
            if status != "A":
                edits.append(path)
                continue
            if not is_new_file(path):
                raise Error(f"'{subject}' adds {path}, where this project keeps files of its own")
            if mode not in ("100644", "100755"):
                raise Error(f"'{subject}' adds {path} with mode {mode}, which the series cannot hold")
            files[path] = (mode, git("cat-file", "blob", blob))
            new.append(path)
            owner[path] = subject
        if not new and not edits:
            raise Error(f"'{subject}' changes nothing: drop it")
        if edits:
            patch = format_patch(rev, *edits)
        else:
            patch = format_patch(rev)
            patch = patch[:patch.index(b"\n---\n") + 5]
        head, _, rest = patch.partition(b"\n---\n")
        notes = b"".join(b"New-file: " + p.encode() + b"\n" for p in new)
        name = f"{n:04}-{slug[:52].rstrip('-.')}.patch"
        series.append(name)
        files["patches/" + name] = ("100644", head + b"\n---\n" + notes + rest)
    files["patches/series"] = ("100644", "".join(s + "\n" for s in series).encode())
    return files


def difference(a, b):
    return sorted(p for p in a.keys() | b.keys() if a.get(p) != b.get(p))


def clean_tip():
    """The tip of the branch, if that is all there is to the work in linux/."""
    head = subprocess.run(["git", "-C", opt.linux, "symbolic-ref", "-q", "HEAD"], stdout=subprocess.PIPE)
    if head.stdout.decode().strip() != BRANCH:
        raise Error(f"{opt.linux} does not have dax-gup checked out: finish the rebase, or git checkout dax-gup")
    if git("status", "--porcelain", "-uno"):
        raise Error(f"{opt.linux} has uncommitted changes: commit or stash them")
    # Not by "status": the .gitignore of Debian's tree ignores all that is new.
    stray = git("ls-files", "-z", "-o", *(f"-x{x}" for x in ("*~", ".*", "*.orig", "*.rej", "tags", "cscope.*")))
    if stray:
        raise Error(f"{opt.linux} has the new file {stray.decode().split(chr(0))[0]}: git add -f and commit it, or move it away")
    return ref(BRANCH)


def manifest(files=None):
    """What the last export or tree left in the checkout, so that later edits there are not overwritten."""
    path = os.path.join(opt.linux, ".git/dax-gup.json")
    if files is not None:
        with open(path + ".tmp", "w", encoding="utf-8") as f:
            json.dump({p: hashlib.sha256(c).hexdigest() for p, (_, c) in files.items()}, f)
        os.rename(path + ".tmp", path)
    elif os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    return {}


def unsaved(path, content):
    committed = subprocess.run(["git", "-C", opt.top, "show", "HEAD:" + path],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return content != committed and hashlib.sha256(content).hexdigest() != manifest().get(path)


# Commands

def cmd_tree():
    files = read_checkout()
    tip, old = assemble(files), clean_tip()
    if tip != old:
        if old != ref(KNOWN) and not opt.force and not same_export(old, files):
            raise Error("the branch dax-gup has work that the checkout has not: make export, or "
                        "make tree FORCE=1 to leave it at refs/dax-gup/backup/")
        git("update-ref", f"refs/dax-gup/backup/{old[:12]}", old)
        git("reset", "-q", "--keep", tip)
    git("update-ref", KNOWN, tip)
    manifest(files)
    print(opt.linux)


def cmd_ensure():
    """As tree, but work in progress is left alone, to be built as it is."""
    try:
        cmd_tree()
    except Error as e:
        if ref(BRANCH) == ref(KNOWN) and not git("status", "--porcelain", "-uno"):
            raise
        print(f"note: using {opt.linux} as it is: {e}", file=sys.stderr)


def same_export(tip, files):
    try:
        return export(tip) == files
    except Error:
        return False


def cmd_export():
    tip = clean_tip()
    want, have = export(tip), read_checkout()
    changed = difference(want, have)
    for path in changed:
        if path in have and not opt.force and unsaved(path, have[path][1]):
            raise Error(f"{path} was edited in the checkout: commit it, or make export FORCE=1 to overwrite it")
    for path in changed:
        full = os.path.join(opt.top, path)
        if path not in want:
            os.remove(full)
            print("removed", path)
            continue
        os.makedirs(os.path.dirname(full), exist_ok=True)
        mode, content = want[path]
        with open(full + ".tmp", "wb") as f:
            f.write(content)
        os.chmod(full + ".tmp", int(mode, 8) & 0o777)
        os.rename(full + ".tmp", full)
        print("wrote", path)
    git("update-ref", KNOWN, tip)
    manifest(want)
    print(f"{len(want['patches/series'][1].splitlines())} patches, {len(changed)} files changed")


def cmd_roundtrip():
    files = read_checkout()
    tip = assemble(files)
    bad = difference(export(tip), files)
    if bad:
        raise Error(f"{bad[0]} is not what an export writes ({len(bad)} such): make tree && make export")
    old = clean_tip()
    if old != tip and not same_export(old, files):
        raise Error("the branch dax-gup and the checkout differ: make export, or make tree")
    if assemble(export(tip)) != tip:
        raise Error("assembling the export gave another branch")
    print(f"roundtrip exact: {len(commits(tip))} patches, "
          f"{sum(is_new_file(p) for p in files)} new files, tree {text('rev-parse', tip + '^{tree}')}")


def cmd_commits():
    print("\n".join(commits(assemble(read_checkout()))))


def cmd_mails():
    """Complete patches with a cover letter into opt.out, and a quilt series into opt.out/quilt."""
    files = read_checkout()
    tip = assemble(files)
    revs = commits(tip)
    cover = os.path.join(opt.top, "patches/cover")
    if not os.path.exists(cover):
        raise Error("patches/cover is missing: its first line is the cover letter's subject, the rest its text")
    with open(cover, encoding="utf-8") as f:
        subject, _, blurb = f.read().partition("\n")
    name, mail, date = text("log", "-1", "--format=%an%n%ae%n%aD", tip).splitlines()
    env = {"GIT_COMMITTER_NAME": name, "GIT_COMMITTER_EMAIL": mail}
    git("format-patch", "-o", opt.out, "--cover-letter", "--zero-commit", "--no-signature", "--full-index",
        "--no-renames", f"base..{tip}", env=env)
    letter = next(os.path.join(opt.out, f) for f in os.listdir(opt.out) if f.startswith("0000-"))
    with open(letter, encoding="utf-8") as f:
        mail = f.read()
    mail = mail.replace("*** SUBJECT HERE ***", subject).replace("*** BLURB HERE ***", blurb.strip())
    mail = re.sub(r"^Date: .*$", "Date: " + date, mail, count=1, flags=re.M)
    with open(letter, "w", encoding="utf-8") as f:
        f.write(mail)
    quilt = os.path.join(opt.out, "quilt/patches")
    os.makedirs(quilt)
    names = patch_names(files)
    for patch, rev in zip(names, revs):
        with open(os.path.join(quilt, os.path.basename(patch)), "wb") as f:
            f.write(format_patch(rev))
    with open(os.path.join(quilt, "series"), "w", encoding="utf-8") as f:
        f.writelines(os.path.basename(p) + "\n" for p in names)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("command", choices=("tree", "ensure", "export", "roundtrip", "commits", "mails"))
parser.add_argument("--top", required=True, help="the checkout")
parser.add_argument("--linux", required=True, help="the kernel repository")
parser.add_argument("--out", help="where mails go")
parser.add_argument("--force", action="store_true")
opt = parser.parse_args()
try:
    globals()["cmd_" + opt.command]()
except Error as error:
    sys.exit(f"{opt.command}: {error}")
