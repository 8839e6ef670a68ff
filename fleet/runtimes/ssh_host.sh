#!/bin/sh
# What fleet does on a host of agents, in one sh; it is put there at the first connection.
#
#     ssh_host.sh serve FOLDER              requests on stdin, a line each; answers and news on stdout, a line each
#     ssh_host.sh put FOLDER NAME           a tar on stdin, then every file in it to its place
#     ssh_host.sh note FOLDER NAME FILE     a file on stdin, to its place; not if the folder of that is gone
#     ssh_host.sh launch FOLDER NAME LAUNCH CWD PROGRAM     the same, then whether the program could be run; where the
#                                           tar has a NAME/open, the pane is opened too: then it ends with its facts
#     ssh_host.sh hunt GRACE LAUNCH …       end all that belongs to these launches; then the first one's facts, and names
#     ssh_host.sh begin FOLDER NAME TURN LAUNCH CWD SECONDS GRACE PROGRAM [ARGUMENT …]   a tar with what is to stand in
#                                           the folder TURN on stdin; then a headless agent's turn, once for each folder:
#                                           `begun AGE` (hundredths of a second; none: it is over), or `stopped`
#     ssh_host.sh halt GRACE TURN …         the same as `hunt` for turns, which then cannot begin any more either
#     ssh_host.sh printed TURN ERRORS BYTES SIZE   the size of what it has printed, and where that is not SIZE its last
#                                           BYTES; of its stderr no more than ERRORS bytes stay
#     ssh_host.sh fetch TURN BYTES          its `exit`, `err` and the last BYTES of `out`, as a tar
#     ssh_host.sh strays FOLDER [AGENT]     processes of launches below FOLDER/agents: `PID:START GENERATION`
#     ssh_host.sh figures PID:START …       what the trees below these cost: a line `TICKS PAGE` (ticks a second, bytes a
#                                           page), then a line `PID:START PROCESSES TICKS PAGES` for each that lives
#     ssh_host.sh list FOLDER | remove PATH …
#     ssh_host.sh reads MARK { FILE BYTES } …   what is in them, each followed by a line `MARK STATUS`
#     ssh_host.sh next                      the words of one of these come as the first line of stdin, quoted for sh, where
#                                           $newline stands for the end of a line
#     ssh_host.sh take FOLDER               events in a folder of the spool: a line `UPTIME MORE`, then a tar of them
#     ssh_host.sh forget FOLDER NAME …      remove these from it
#     ssh_host.sh run FOLDER NAME SECONDS CWD PROGRAM [ARGUMENT …]   a tar with `env` and `stdin` on stdin
#
# FOLDER is fleet's own on this host, NAME a new one for this call, LAUNCH the folder of a launch (launcher.sh).
# A request: `NUMBER facts LAUNCH`, `NUMBER launches FOLDER`, `NUMBER note LAUNCH PID`, `NUMBER purged LAUNCH`,
# `NUMBER ping`, `want LINES`.
# An answer: `=NUMBER WORDS`; `!` for what the file system did not tell. News: `changed PATH`,
# `ended PID START`, `unwanted` (a list that could not be kept), `beat` (nothing new, by who tells news).
# A process is told by pid and start time (field 22 of /proc/PID/stat), as everywhere in fleet.

LC_ALL=C
export LC_ALL
umask 077
{ read -r boot </proc/sys/kernel/random/boot_id; } 2>/dev/null || boot=unknown
SOON=0.2 # seconds between two looks of the loop that tells news, while there are any …
LATER=0.5 # … and after QUIET turns without
QUIET=50
BEATS=10 # after so many turns it says that it lives

start_of() { # PID: its start time in $start; fails where nothing lives there
    start=
    case $1 in '' | *[!0-9]*) return 1 ;; esac
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    set -- ${stat##*) }
    case $1 in Z | X) return 1 ;; esac
    start=${20}
}

lives() { # PID START
    [ -n "$2" ] && start_of "$1" && [ "$start" = "$2" ]
}

noted() { # FILE: `PID START` in $pid and $began
    pid='' began=''
    { read -r pid began <"$1"; } 2>/dev/null
    [ -n "$began" ]
}

untold() { # FILE: whether the file system did not say what is in it, which is not the same as its not being there
    case $(cat "$1" 2>&1 >/dev/null) in '' | *'No such file'* | *'Not a directory'*) return 1 ;; esac
}

this_boot() { # LAUNCH: whether it was made since this machine was started; of an older one nothing lives
    { read -r was <"$1/boot"; } 2>/dev/null || return 0
    [ "$was" = "$boot" ]
}

hundredths() { # since boot, in $now
    read -r now idle </proc/uptime
    now=${now%.*}${now#*.}
}

# -- serve ---------------------------------------------------------------------------------------------------------

facts() { # LAUNCH: launcher program server exit alive server-alive claim screen purged, `-` for none
    said= alive=0 there=0
    for name in launcher program server; do
        if noted "$1/$name"; then
            said="$said $pid:$began"
            lives "$pid" "$began" && this_boot "$1" || continue
            [ "$name" != launcher ] || alive=1
            [ "$name" != server ] || there=1
        elif untold "$1/$name"; then
            said=' !'
            return
        else
            said="$said -"
        fi
    done
    status=-
    { read -r status <"$1/exit"; } 2>/dev/null # read after the launcher was looked at: it is its last word
    if [ "${status:--}$alive" = -0 ] && untold "$1/exit"; then
        said=' !'
        return
    fi
    said="$said ${status:--} $alive $there"
    for name in claim screen purged; do
        [ -e "$1/$name" ] && said="$said 1" || said="$said 0"
    done
}

launches() { # FOLDER of an agent's launches: each one's name, with a `+` before it that is not known to be purged
    said=
    if names=$(ls -A "$1" 2>&1); then
        for name in $names; do
            [ -e "$1/$name/purged" ] && said="$said $name" || said="$said +$name"
        done
    elif untold "$1/."; then
        said=' !'
    fi
}

note_server() { # LAUNCH PID: the server that holds the pane of a launch
    start_of "$2" && printf '%s %s\n' "$2" "$start" >"$1/server.new" && mv -f "$1/server.new" "$1/server"
}

tell_news() { # FILE with what is wanted: `folder PATH`, `process PID START`
    before='' ended=' ' quiet=0 turns=0
    while [ -e "$1" ]; do
        set -- "$1"
        while read -r kind what rest; do
            case $kind in
            folder) set -- "$@" "$what${rest:+ $rest}" ;;
            process)
                case $ended in *" $what:$rest "*) ;; *)
                    if ! lives "$what" "$rest"; then
                        ended="$ended$what:$rest " quiet=0
                        echo "ended $what $rest" || exit 0
                    fi
                    ;;
                esac
                ;;
            esac
        done <"$1"
        wanted=$1
        shift
        after=
        [ $# = 0 ] || after=$(ls -Ail $full_time /dev/null "$@" 2>/dev/null)
        if [ "$after" != "$before" ]; then
            printf '%s\n--\n%s\n' "$before" "$after" | awk '
                $0 == "--" { second = 1; folder = ""; next }
                /^\/.*:$/ { folder = substr($0, 1, length($0) - 1); next }
                folder == "" || NF < 10 { next }
                {
                    name = $0
                    for (n = 0; n < 9; n++) sub(/^ *[^ ]+/, "", name)
                    if ($2 ~ /^l/) sub(/ -> .*/, "", name)
                    path = folder "/" substr(name, 2)
                    mark = $1 " " $2 " " $6 " " $7 " " $8
                    if (!second) old[path] = mark
                    else { if (old[path] != mark) print "changed " path; delete old[path] }
                }
                END { for (path in old) print "changed " path }' || exit 0
            before=$after quiet=0
        fi
        quiet=$((quiet + 1)) turns=$((turns + 1))
        [ $((turns % BEATS)) != 0 ] || echo beat || exit 0
        set -- "$wanted"
        if [ "$quiet" -lt "$QUIET" ]; then sleep "$SOON"; else sleep "$LATER"; fi
    done
}

serve() { # FOLDER
    wanted=$1/want.$$
    true >"$wanted" || exit 1
    full_time=
    ls --full-time / >/dev/null 2>&1 && full_time=--full-time
    tell_news "$wanted" </dev/null &
    trap 'rm -f "$wanted" "$wanted.new"' EXIT
    trap 'exit 0' HUP INT TERM PIPE
    while IFS= read -r line; do
        number=${line%% *}
        line=${line#* }
        case $number in want)
            kept=1
            true >"$wanted.new" || kept=0
            while [ "$line" -gt 0 ] && IFS= read -r one; do
                printf '%s\n' "$one" >>"$wanted.new" || kept=0
                line=$((line - 1))
            done
            # on a full disk the old list is better than half of the new one
            [ "$kept" = 0 ] || mv -f "$wanted.new" "$wanted" || kept=0
            [ "$kept" = 1 ] || echo unwanted
            continue
            ;;
        esac
        verb=${line%% *}
        line=${line#* }
        said=' ?'
        case $verb in
        facts) facts "$line" ;;
        launches) launches "$line" ;;
        ping) said=' here' ;;
        purged) [ ! -d "$line" ] || true >"$line/purged" && said=' ok' ;;
        note) ! note_server "${line% *}" "${line##* }" || said=" $start" ;;
        esac
        printf '=%s%s\n' "$number" "$said"
    done
}

# -- files ---------------------------------------------------------------------------------------------------------

unpack() { # FOLDER NAME: the tar on stdin; NAME/places says what goes where, by lines in pairs
    mkdir -p "$1" && (cd / && tar -xompf -) || return 1
    into=$1/$2
    while IFS= read -r beside && IFS= read -r place; do
        mv -f "$beside" "$place" || return 1
    done <"$into/places"
}

launch() { # FOLDER NAME LAUNCH CWD PROGRAM
    launch_now "$@"
    set -- "$?" "$1/$2"
    rm -rf "$2"
    return "$1"
}

launch_now() {
    if [ -e "$3/claim" ]; then
        cat >/dev/null
        echo claimed
        return
    fi
    unpack "$1" "$2" && echo "$boot" >"$3/boot" || return 1
    if [ ! -d "$4" ]; then
        [ -e "$4" ] && echo "refused cwd is not a folder" || echo "refused cwd does not exist"
        return
    fi
    (cd "$4") 2>/dev/null || { echo "refused cwd may not be entered"; return; }
    case $5 in
    /*) path=$5 ;;
    */*) path=$4/$5 ;;
    *)
        path=
        PATH_OF_AGENT=$(. "$3/env" && printf %s "${PATH-/bin:/usr/bin}")
        old=$IFS
        IFS=:
        set -f
        for folder in $PATH_OF_AGENT; do
            if [ -f "${folder:-.}/$5" ] && [ -x "${folder:-.}/$5" ]; then
                path=${folder:-.}/$5
                break
            fi
        done
        set +f
        IFS=$old
        [ -n "$path" ] || { echo "refused program is not on the agent's PATH"; return; }
        ;;
    esac
    if [ ! -e "$path" ]; then
        echo "refused program does not exist"
    elif [ ! -f "$path" ]; then
        echo "refused program is no file"
    elif [ ! -x "$path" ]; then
        echo "refused program may not be executed"
    else
        printf 'program %s\n' "$path"
        open_pane "$1" "$2" "$3" "$path"
    fi
}

open_pane() { # FOLDER NAME LAUNCH PROGRAM: by the commands in NAME/open, if that server is there; else nothing is done
    [ -e "$1/$2/open" ] || return 0
    case $4 in *[!A-Za-z0-9._/@+~-]*) return 0 ;; esac # tmux might read it in another way
    . "$1/$2/server"
    sed "1s|@$2@|$4|" "$1/$2/open" >"$1/$2/opens" && server=$(at_server source-file "$1/$2/opens" 2>/dev/null) &&
        note_server "$3" "$server" || return 0
    n=0
    while [ $n -lt 200 ] && [ ! -e "$3/program" ] && [ ! -e "$3/exit" ]; do
        sleep 0.02
        n=$((n + 1))
    done
    facts "$3"
    echo "opened$said"
}

take() { # FOLDER
    read -r up idle </proc/uptime
    cd "$1" 2>/dev/null || { echo "$up 0"; return; }
    set -f
    set -- $(ls -lntr | awk '
        /^-/ && $NF ~ /^[A-Za-z0-9_][A-Za-z0-9._-]*,[0-9]+,[0-9.]+,[0-9]+(,[A-Za-z0-9_-]+)?$/ {
            there++
            if (count && (count >= 500 || size + $5 > 8000000)) next
            count++
            size += $5
            names = names " " $NF
        }
        END { print there - count names }')
    more=$1
    shift
    echo "$up $more"
    [ $# = 0 ] || exec tar -cf - -- "$@"
}

forget() { # FOLDER NAME …
    cd "$1" 2>/dev/null || return 0
    shift
    rm -f -- "$@"
}

run() { # FOLDER NAME SECONDS CWD PROGRAM [ARGUMENT …]
    into=$1/$2
    mkdir -p "$1" && (cd / && tar -xompf -) || exit 74
    cd "$4" 2>/dev/null || { rm -rf "$into"; echo "fleet: cannot enter" >&2; exit 72; }
    # should the connection be cut meanwhile, nobody but this ends it
    (
        exec </dev/null >/dev/null 2>&1
        sleep "$3" &
        sleeper=$!
        trap 'kill "$sleeper"; exit 0' TERM
        wait "$sleeper"
        kill -KILL "-$$"
    ) &
    watchdog=$!
    shift 4
    env -i /bin/sh -c 'set -a; . "$0/env"; set +a; /bin/rm -rf "$0"; exec "$@"' "$into" "$@" <"$into/stdin"
    status=$?
    kill -TERM "$watchdog" 2>/dev/null
    exit "$status"
}

# -- ending --------------------------------------------------------------------------------------------------------

search() { # all living processes of the launches in $launches, as `PID:START`, in $found
    marks='' roots=''
    for folder in $launches; do
        marks="$marks -e FLEET_GENERATION=${folder##*/} -e FLEET_TURN=$folder"
        for name in launcher program; do
            ! noted "$folder/$name" || ! this_boot "$folder" || roots="$roots$pid $began
"
        done
        [ ! -f "$folder/seen" ] || roots="$roots$(cat "$folder/seen")
"
    done
    for file in $(grep -laF $marks /proc/[0-9]*/environ 2>/dev/null); do
        pid=${file#/proc/}
        pid=${pid%/environ}
        if tr '\0' '\n' <"$file" 2>/dev/null | grep -qxF $marks; then
            roots="$roots$pid *
"
        fi
    done
    found=$({
        printf '%s--\n' "$roots"
        cat /proc/[0-9]*/stat 2>/dev/null
    } | awk -v me=$$ '
        $0 == "--" && !second { second = 1; next }
        !second { if (NF == 2) { root[$1] = root[$1] " " $2 " " }; next }
        {
            line = $0
            sub(/.*\) /, "", line)
            if (split(line, f, " ") < 20 || f[1] == "Z" || f[1] == "X" || $1 !~ /^[0-9]+$/) next
            start[$1] = f[20]
            near[f[2]] = near[f[2]] " " $1
            if (f[4] != f[2]) near[f[4]] = near[f[4]] " " $1
            if (($1 in root) && (index(root[$1], " * ") || index(root[$1], " " f[20] " "))) todo[++last] = $1
        }
        END {
            for (n = 1; n <= last; n++) {
                pid = todo[n]
                if (pid in done) continue
                done[pid] = 1
                if (pid != me) print pid ":" start[pid]
                count = split(near[pid], below, " ")
                for (k = 1; k <= count; k++) if (!(below[k] in done)) todo[++last] = below[k]
            }
        }' | tr '\n' ' ')
}

look() { # what is left, in $left: what is found now, and what was once found and lives
    search
    left=' '
    for one in $found $ever; do
        case $left in *" $one "*) continue ;; esac
        if lives "${one%:*}" "${one#*:}"; then left="$left$one "; fi
    done
    ever=$left
}

left_over() { # the same, and nobody is left only if twice nobody is: who is born meanwhile is in no one reading
    look
    [ "$left" != ' ' ] || look
}

signal() { # NAME WORD …
    name=$1
    shift
    for one in "$@"; do
        if lives "${one%:*}" "${one#*:}"; then kill -"$name" "${one%:*}" 2>/dev/null; fi
    done
}

unspared() { # of $left, what is not the launcher, in $victims; the launcher ends with its program, whose end it notes
    victims=
    for one in $left; do
        case " $spared " in *" $one "*) ;; *) victims="$victims $one" ;; esac
    done
}

hunt() { # GRACE (hundredths of a second) LAUNCH …
    grace=$1
    shift
    launches=$* ever='' told=' ' killed='' spared=''
    for folder in $launches; do
        ! noted "$folder/launcher" || spared="$spared $pid:$began"
    done
    hundredths
    deadline=$((now + grace))
    left_over
    echo "there $left"
    while [ "$left" != ' ' ]; do
        hundredths
        [ "$now" -lt "$deadline" ] || break
        unspared
        for one in $victims; do
            case $told in *" $one "*) ;; *)
                signal TERM "$one"
                signal CONT "$one" # one that is stopped hears it too
                told="$told$one "
                ;;
            esac
        done
        sleep 0.05
        left_over
    done
    hundredths
    deadline=$((now + 1000))
    while [ "$left" != ' ' ] && [ "$now" -lt "$deadline" ]; do
        unspared
        stopped=
        while [ "$victims" != "$stopped" ]; do # so that a tree cannot grow while it is being killed
            stopped=$victims
            signal STOP $victims
            left_over
            unspared
        done
        if [ -z "$victims" ]; then
            for n in 1 2 3 4 5 6 7 8 9 10; do
                [ "$left" != ' ' ] || break
                sleep 0.05
                left_over
            done
            unspared
            [ -n "$victims" ] || victims=$left
        fi
        for one in $victims; do
            case " $killed " in *" $one "*) ;; *) killed="$killed $one" ;; esac
        done
        signal KILL $victims
        sleep 0.02
        left_over
        hundredths
    done
    echo "killed $killed"
    echo "left $left"
    facts "${launches%% *}"
    echo "facts$said"
    echo "names $(ls -A "${launches%% *}" 2>/dev/null | tr '\n' ' ')"
}

# -- turns ---------------------------------------------------------------------------------------------------------

begin() { # FOLDER NAME TURN LAUNCH CWD SECONDS GRACE PROGRAM [ARGUMENT …]
    turn=$3 launch=$4 launcher=${0%/*}/launcher.sh pid=
    if [ -e "$turn/claim" ]; then
        cat >/dev/null
    elif [ ! -e "$launch/stands" ]; then
        cat >/dev/null
        echo stopped
        return
    else
        unpack "$1" "$2" && rm -rf "$1/$2" && echo "$boot" >"$turn/boot" || return 1
        cwd=$5 seconds=$6 grace=$7
        shift 7
        timer=$(command -v timeout) && set -- /bin/sh "${0%/*}/turn_limit.sh" "$timer" "$seconds" "$grace" "$@"
        marks="FLEET_TURN=$turn FLEET_LAUNCH=$launch FLEET_GENERATION=${launch##*/}"
        heeds=
        env --default-signal true 2>/dev/null && heeds=--default-signal # a shell has what it puts beside itself ignore some
        cd /
        env -i $heeds $marks $(command -v setsid) /bin/sh "$launcher" "$turn" "$cwd" "$@" \
            <"$turn/prompt" >>"$turn/out" 2>>"$turn/err" &
        pid=$!
    fi
    n=0
    while [ $n -lt 1000 ] && [ ! -e "$turn/program" ] && [ ! -e "$turn/exit" ] && [ ! -e "$turn/purged" ]; do
        [ -z "$pid" ] || kill -0 "$pid" 2>/dev/null || break
        sleep 0.02
        n=$((n + 1))
    done
    if noted "$turn/launcher" && lives "$pid" "$began"; then
        hundredths
        echo "begun $((now - began))"
    else
        echo begun
    fi
}

halt() { # GRACE TURN …
    grace=$1
    shift
    set -C
    for turn; do
        mkdir -p "$turn" && { true >"$turn/claim"; } 2>/dev/null
    done
    set +C
    hunt "$grace" "$@"
    [ "$left" != ' ' ] || for turn; do true >"$turn/purged"; done
}

printed() { # TURN ERRORS BYTES SIZE
    [ ! -e "$1/err" ] || [ "$(wc -c <"$1/err")" -le "$2" ] || true >"$1/err" # it is written at its end, wherever that is
    size=0
    [ ! -e "$1/out" ] || size=$(($(wc -c <"$1/out")))
    echo "$size"
    [ "$size" = "$4" ] || tail -c "$3" "$1/out"
}

fetch() { # TURN BYTES
    cd "$1" 2>/dev/null || return 0
    if [ -e out ] && [ "$(wc -c <out)" -gt "$2" ]; then
        tail -c "$2" out >out.end && mv -f out.end out || return 1
    fi
    set --
    for name in exit err out; do
        [ ! -e "$name" ] || set -- "$@" "$name"
    done
    [ $# = 0 ] || exec tar -cf - -- "$@"
}

strays() { # FOLDER [AGENT]
    set -- "$1/agents/${2:+$2/}"
    for file in $(grep -laF "FLEET_LAUNCH=$1" /proc/[0-9]*/environ 2>/dev/null); do
        pid=${file#/proc/}
        pid=${pid%/environ}
        start_of "$pid" || continue
        folder=$(tr '\0' '\n' <"$file" 2>/dev/null | grep "^FLEET_LAUNCH=$1")
        [ -z "$folder" ] || printf '%s:%s %s\n' "$pid" "$start" "${folder##*/}"
    done
}

figures() { # PID:START …; CPU that ended children have used is their parents' when they are waited for
    echo "$(getconf CLK_TCK 2>/dev/null || echo 100) $(getconf PAGESIZE 2>/dev/null || echo 4096)"
    cat /proc/[0-9]*/stat 2>/dev/null | awk -v roots="$*" '
        {
            line = $0
            sub(/.*\) /, "", line)
            if (split(line, f, " ") < 22 || f[1] == "Z" || f[1] == "X" || $1 !~ /^[0-9]+$/) next
            start[$1] = f[20]
            used[$1] = f[12] + f[13] + f[14] + f[15]
            pages[$1] = f[22]
            near[f[2]] = near[f[2]] " " $1
            if (f[4] != f[2]) near[f[4]] = near[f[4]] " " $1
        }
        END {
            count = split(roots, root, " ")
            for (n = 1; n <= count; n++) {
                split(root[n], one, ":")
                if (start[one[1]] != one[2]) continue
                split("", done)
                todo[1] = one[1]
                last = 1
                processes = ticks = size = 0
                for (k = 1; k <= last; k++) {
                    if (todo[k] in done) continue
                    done[todo[k]] = 1
                    processes++
                    ticks += used[todo[k]]
                    size += pages[todo[k]]
                    below = split(near[todo[k]], child, " ")
                    for (c = 1; c <= below; c++) todo[++last] = child[c]
                }
                print root[n], processes, ticks, size
            }
        }'
}

reads() { # MARK { FILE BYTES } …; `-` BYTES are all of it
    mark=$1
    shift
    while [ $# -gt 1 ]; do
        if [ ! -e "$1" ] || [ -d "$1" ]; then
            status=44
        elif [ ! -f "$1" ]; then
            status=45
        else
            if [ "$2" = - ]; then cat "$1"; else tail -c "$2" "$1"; fi
            status=$?
        fi
        printf '%s %s\n' "$mark" "$status"
        shift 2
    done
}

if [ "$1" = next ]; then
    newline='
'
    IFS= read -r line || exit 0
    eval "set -- $line"
fi
verb=$1
shift
case $verb in
serve | hunt | launch | run | reads | figures | strays | take | forget | begin | halt | printed | fetch) "$verb" "$@" ;;
remove) rm -rf "$@" || rm -rf "$@" ;; # a last note may have come between
put) unpack "$1" "$2" && rm -rf "$1/$2" ;;
note) # FOLDER NAME FILE: a file for a folder that may be gone, and must not come again with it
    mkdir -p "$1" && cat >"$1/$2" || exit
    mv -f "$1/$2" "$3" 2>/dev/null || [ ! -d "${3%/*}" ]
    status=$?
    rm -f "$1/$2"
    exit "$status"
    ;;
list) [ ! -d "$1" ] || ls -A "$1" ;;
*) exit 64 ;;
esac
