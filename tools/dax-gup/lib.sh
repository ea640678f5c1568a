# shellcheck shell=bash
# shellcheck disable=SC2034 # the variables are for those who source this
# What every script here starts with: where things are, and how to complain.
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$tools/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/dax-gup
KSRC=${KSRC:-}
# A tree of one's own gets a branch and builds of its own.
work=$cache
[ -z "$KSRC" ] || work=$cache/ksrc-$(realpath -m "$KSRC" | sha256sum | cut -c1-8)
linux=$work/linux
stock=$work/stock
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
jobs=${JOBS:-$(nproc)}

export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 LC_ALL=C.UTF-8
export CCACHE_DIR=$cache/ccache CCACHE_BASEDIR=$work CCACHE_NOHASHDIR=1 CCACHE_DEPEND=1 CCACHE_MAXSIZE=8G
export KBUILD_BUILD_TIMESTAMP=1970-01-01 KBUILD_BUILD_USER=dax KBUILD_BUILD_HOST=gup

say() { printf '== %s\n' "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

case $cache in *[[:space:]:]*) die "kbuild cannot work below '$cache': set XDG_CACHE_HOME to a path without spaces and colons" ;; esac
mkdir -p "$work" 2>/dev/null || die "cannot write to $work: set XDG_CACHE_HOME"

# need SET...: the packages of these lines of the list are installed, or we stop.
need() {
	local set pkgs="" missing=""
	for set; do
		pkgs+=" $(sed -n "s/^$set://p" "$tools/packages")"
	done
	command -v dpkg-query >/dev/null || return 0 # not Debian: the commands will say what they lack
	for set in $pkgs; do
		dpkg-query -W -f '${db:Status-Abbrev}' "$set" 2>/dev/null | grep -q '^ii' || missing+=" $set"
	done
	[ -n "$missing" ] || return 0
	if [ "$(id -u)" = 0 ]; then
		say "installing$missing"
		export DEBIAN_FRONTEND=noninteractive
		# shellcheck disable=SC2086 # a list of packages
		{ apt-get install -qy --no-install-recommends $missing ||
		  { apt-get update -q && apt-get install -qy --no-install-recommends $missing; }; } >"$cache/apt.log" 2>&1 ||
			die "apt-get install$missing failed: see $cache/apt.log"
	else
		die "packages are missing: sudo apt-get install$missing"
	fi
}

# room GIB: that much disk is free in the cache, or we stop.
room() {
	local free
	free=$(df --output=avail -BG "$work" | tr -dc 0-9)
	[ "$free" -ge "$1" ] || die "$work has $free GiB free and $1 are needed: free some, or set XDG_CACHE_HOME to another disk"
}

# logged LOG WHAT COMMAND...: run it with its output in LOG and a line of status now and then.
logged() {
	local log=$1 what=$2 pid start=$SECONDS next=15 count
	shift 2
	mkdir -p "${log%/*}"
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	# shellcheck disable=SC2064 # this pid
	trap "kill $pid 2>/dev/null; exit 130" INT TERM
	while kill -0 $pid 2>/dev/null; do
		sleep 0.2
		[ $((SECONDS - start)) -ge $next ] || continue
		next=$((next + 15))
		count=$(grep -cE '^ +(CC|AS|LD|AR|HOSTCC|CHECK) ' "$log" || true)
		[ "$count" = 0 ] && count="" || count="$count objects, "
		say "$what: $((SECONDS - start)) s, $count$(tail -n1 "$log" | cut -c1-60)"
	done
	trap - INT TERM
	wait $pid && return
	grep -m5 -E '(error|Error|ERROR|No space left)' "$log" >&2 || tail -n5 "$log" >&2
	die "$what failed: see $log"
}

# configure SRC OUT FRAGMENT...: OUT/.config for SRC from config/FRAGMENT.config. Done again only if one of these or a Kconfig
# has changed, since a new .config rebuilds a lot.
configure() {
	local src=$1 out=$2 list key
	shift 2
	list=("${@/#/$tools/config/}")
	list=("${list[@]/%/.config}")
	key=$({ cat "${list[@]}"; (cd "$src" && find . -name '*Kconfig*' -type f -print0 | sort -z | xargs -0 sha256sum); } |
		sha256sum | cut -d' ' -f1)
	[ -f "$out/.config" ] && [ "$key" = "$(cat "$out/config.key" 2>/dev/null)" ] && return
	say "configuring ${out##*/}"
	mkdir -p "$out"
	rm -f "$out/config.key"
	(cd "$src" && ARCH=x86 CC="ccache gcc" scripts/kconfig/merge_config.sh -n -O "$out" "${list[@]}") \
		>"$out/config.log" 2>&1 </dev/null || die "merge_config.sh failed: see $out/config.log"
	echo "$key" >"$out/config.key"
}

# debian_mirror: the URI that this machine's apt takes Debian from.
debian_mirror() {
	# shellcheck disable=SC2016 # apt expands it
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' 'Origin: Debian' \
		"Release: $(codename)" 2>/dev/null | head -n1 | grep . ||
		die "apt has no Debian source for '$(codename)': add one and run apt-get update"
}
codename() { (. /etc/os-release && echo "${VERSION_CODENAME:-}"); }

# apt_state TYPE SUITE OTHERWISE: a private apt state for one suite, through APT_CONFIG.
# It works for any user, and the system's sources stay as they are.
apt_state() {
	local apt=$cache/apt/$2 uri
	[ -r "$KEYRING" ] || die "$KEYRING is missing: install debian-archive-keyring, or $3"
	command -v apt-get >/dev/null || die "there is no apt-get here to fetch with: $3"
	uri=$(debian_mirror) || exit
	mkdir -p "$apt"/{lists,archives}/partial
	: >"$apt/status"
	printf '%s\n' "Types: $1" "URIs: $uri" "Suites: $2" 'Components: main' "Signed-By: $KEYRING" >"$apt/apt.sources"
	cat >"$apt/apt.conf" <<-EOF
		Dir::Etc::sourcelist "$apt/apt.sources";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		Dir::State::lists "$apt/lists";
		Dir::State::status "$apt/status";
		Dir::Cache "$apt";
		Acquire::Languages "none";
		APT::Sandbox::User "";
		APT::Update::Error-Mode "any";
	EOF
	export APT_CONFIG=$apt/apt.conf
	say "reading the package list of $2"
	apt-get update -qq >"$cache/apt/log" 2>&1 ||
		die "apt-get update for $2 failed ($(grep -m1 -E '^[EW]:' "$cache/apt/log")): try again later, or $3"
}

# lock: one make at a time changes this work area. Builds and boots that follow inherit it.
lock() {
	[ -z "${DAX_GUP_LOCKED:-}" ] || return 0
	exec 9>"$work/lock"
	flock -n 9 || { say "waiting for another make on $work"; flock 9; }
	export DAX_GUP_LOCKED=1
}
