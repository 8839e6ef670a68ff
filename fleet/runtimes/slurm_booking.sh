#!/bin/bash
# What the job of a booking does, below the options and values that slurm_booking.py writes above it (bash): it owns a
# tmux server in which agents are started from outside, and ends it with all that lives in it.
#
# The booking's folder:
#
#   wanted        there for as long as the booking is; a job that does not find it ends
#   place         job, node and socket of the newest allocation, written by its own job
#   successor.N   the job that job N has submitted, near its limit, to take over
#   over.N        written by fleet: SLURM has no job N any more, also where its script was not told
#
# Beside it stands a guard, the same script in a session of its own: where the job's own script is killed and its
# processes are not killed with it, that one ends them.
#
# A successor does not wait for the job before it. When it has its node it writes `place`; the older job sees that and
# ends what it holds, which then comes back in the new allocation.

note() { # NAME TEXT
    printf '%s\n' "$2" >"$folder/.$1.$SLURM_JOB_ID" && mv -f "$folder/.$1.$SLURM_JOB_ID" "$folder/$1"
}

pause() { # a second, or less when a signal comes
    sleep 1 &
    wait "$!"
}

clock() {
    printf -v now '%(%s)T' -1
}

identity() { # PID: "PID START", nothing where it is gone
    local stat
    if read -r stat 2>/dev/null <"/proc/$1/stat"; then
        set -- "$1" ${stat##*) }
        [ "$2" = Z ] || printf '%s %s' "$1" "${21}"
    fi
}

clock
end=$((now + limit))
node=${SLURMD_NODENAME:-$(uname -n)}
job_mark=FLEET_JOB=$SLURM_JOB_ID@$node
base=/tmp/fleet-$UID
mkdir -m 700 "$base" 2>/dev/null
[ -O "$base" ] && [ ! -L "$base" ] && [ -d "$base" ] || exit 73
here=$base/$SLURM_JOB_ID.$node
socket=$here/tmux
on_server() { env -i PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 tmux -u -S "$socket" -f /dev/null "$@"; }

end_all() { # GRACE [ROOT]: nobody is left; begun again where a signal to all of the job met it untrapped
    tries=0
    until sh "$lease" end "$job_mark" "$@" || [ "$tries" -ge 30 ]; do
        tries=$((tries + 1))
        pause
    done
}

finish() { # end what it holds
    # First nobody is sent here any more, so that who ends now is known to end with the allocation.
    read -r newest _ <"$folder/place"
    [ "$newest" != "$SLURM_JOB_ID" ] || rm -f "$folder/place"
    end_all "$grace"
    end_all 2 "$server"
    tries=0 # the guards of its tenants let go of their leases
    until [ -z "$(ls -A "$here/tenants" 2>/dev/null)" ] || [ "$tries" -ge 8 ]; do
        tries=$((tries + 1))
        pause
    done
    rm -rf "$here"
}

if [ "${1:-}" = guard ]; then
    server=$3
    while [ "$(identity "${2%% *}")" = "$2" ]; do pause; done
    [ ! -e "$here" ] || finish
    exit 0
fi

[ -e "$folder/wanted" ] || exit 0
rm -rf "$here"
mkdir -p "$here" || exit 73
on_server "${tmux_start[@]}" || exit 69
server=$(identity "$(on_server display-message -p '#{pid}')")
(setsid bash "$folder/job" guard "$(identity "$$")" "$server" </dev/null >/dev/null 2>&1 &)
note place "$SLURM_JOB_ID $node $socket"

while [ -z "$ended" ] && [ -e "$folder/wanted" ] && [ "$(identity "${server%% *}")" = "$server" ]; do
    clock
    [ "$now" -lt $((end - before)) ] || walltime=${walltime:-deadline}
    if [ -n "$walltime" ] && [ -n "$persistent" ] && [ ! -e "$folder/successor.$SLURM_JOB_ID" ]; then
        said=$(env -i PATH="$PATH" HOME="$HOME" USER="${USER:-}" ${SLURM_CONF:+SLURM_CONF="$SLURM_CONF"} \
            timeout 60 sbatch --parsable "$folder/job" 2>&1) && said=${said##*$'\n'}
        note "successor.$SLURM_JOB_ID" "$said"
        [ -e "$folder/wanted" ] || scancel "${said%%;*}"
    fi
    [ "$now" -lt $((end - grace - 20)) ] || break
    read -r newest _ <"$folder/place"
    [ "$newest" = "$SLURM_JOB_ID" ] || break
    [ ! -e "$folder/over.$SLURM_JOB_ID" ] || break
    pause
done

finish
rm -f "$folder/over.$SLURM_JOB_ID"
