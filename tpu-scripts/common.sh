# Functions of the scripts in this folder, which source this file. Each script gets the name of a run. What
# `create` and `launch` were told is in a folder of the run, so that later scripts need the name only.
# shellcheck shell=bash

set -euo pipefail

# Folder with one folder for each run.
MESH_RUNS=${MESH_RUNS:-${HOME:?}/.mesh/runs}
# Seconds between two looks at the state of something.
MESH_POLL=${MESH_POLL:-10}
# Hosts that are asked at once: each takes a process of gcloud on this machine.
MESH_PARALLEL=${MESH_PARALLEL:-16}
# The program that knows the slices. It need not be the one that runs on the hosts.
MESHC=${MESHC:-meshc}

# The run: its name, and the folder with what is known of it here.
run='' folder=''
# What `create` was told about the run.
# shellcheck disable=SC2034
target='' zone='' project='' bucket='' capacity='' queued=no service_account='' network=''
# What `meshc slice` says about the target.
# shellcheck disable=SC2034
slices=1 hosts=1 chips=1 topology='' accelerator_type='' type='' runtime_version=''
host_command=''
# What `launch` was told.
binary='' artefact='' restarts=10

die() {
    printf 'error: %s\n' "$1" >&2
    [[ $# -lt 2 ]] || printf '  help: %s\n' "$2" >&2
    exit 1
}

say() { printf '%s\n' "$*" >&2; }

# Prints the comment at the head of the calling script.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }

# Reads the name of the run from the first argument.
use_run() {
    case ${1:-} in
        -h | --help) usage; exit 0 ;;
        '' | -*) usage >&2; exit 2 ;;
        *[!a-z0-9-]* | [!a-z]*) die "the name of a run has lowercase letters, digits and dashes (got $1)" ;;
    esac
    run=$1
    folder=$MESH_RUNS/$run
}

# Reads what `create` was told, and the facts of the target.
load_run() {
    [[ -f $folder/run.env ]] || die "there is no run $run in $MESH_RUNS" "tpu-scripts/create $run --target ... makes it"
    # shellcheck disable=SC1091
    source "$folder/run.env"
    load_facts
    # shellcheck disable=SC1091
    [[ ! -f $folder/hosts.env ]] || source "$folder/hosts.env"
}

# Reads the facts of the target: hosts, slices, accelerator_type and so on.
load_facts() {
    local facts
    facts=$("$MESHC" slice "$target") || die "$MESHC does not know the target $target"
    eval "$facts"
}

# Writes assignments of the named variables that bash can read.
assignments() {
    local name
    for name in "$@"; do printf '%s=%q\n' "$name" "${!name}"; done
}

tpus() { gcloud compute tpus "$@" --zone "$zone" --project "$project" --quiet; }

# The machines of the run: one name for each slice.
nodes() {
    local slice
    if [[ $slices == 1 ]]; then
        printf '%s\n' "$run"
    else
        for ((slice = 0; slice < slices; slice++)); do printf '%s-%s\n' "$run" "$slice"; done
    fi
}

# The state of the machines of slice $1, such as READY or PREEMPTED; ABSENT if there are none.
node_state() {
    tpus tpu-vm describe "$1" '--format=value(state)' 2>/dev/null || printf 'ABSENT\n'
}

# The internal addresses of the hosts of slice $1, separated by commas.
node_hosts() {
    local listed
    listed=$(tpus tpu-vm describe "$1" '--format=value(networkEndpoints[].ipAddress.list())') ||
        die "the machines of $1 cannot be described" "tpu-scripts/status $run shows their state"
    # gcloud separates lists by commas or semicolons.
    listed=$(tr -s ',; \n' ',' <<<"$listed")
    listed=${listed#,}
    printf '%s\n' "${listed%,}"
}

# Runs command $3 on host $2 of slice $1.
on_host() {
    tpus tpu-vm ssh "$1" "--worker=$2" "--command=$3"
}

# Lists all hosts: slice name, index in the slice.
hosts_of_run() {
    local node index
    while read -r node; do
        for ((index = 0; index < hosts; index++)); do printf '%s %s\n' "$node" "$index"; done
    done < <(nodes)
}

# Runs function $1 for all hosts, MESH_PARALLEL at once, with the name of the slice and the index of the
# host. What it prints is in NODE-INDEX.out. Fails if it fails for a host, and names each of them.
for_all_hosts() {
    local node index pids=() names=() ended=0 failed=0
    while read -r node index; do
        "$1" "$node" "$index" </dev/null >"$folder/$node-$index.out" 2>&1 &
        pids+=($!)
        names+=("$node-$index")
        ((${#pids[@]} - ended < MESH_PARALLEL)) || await_host
    done < <(hosts_of_run)
    while ((ended < ${#pids[@]})); do await_host; done
    return "$failed"
}

# Waits for the next host of for_all_hosts, whose variables it uses.
await_host() {
    if ! wait "${pids[ended]}"; then
        say "error: host ${names[ended]}: $(tail -n 3 "$folder/${names[ended]}.out")"
        failed=1
    fi
    ended=$((ended + 1))
}

# Runs command $1 on all hosts.
on_all_hosts() {
    host_command=$1
    for_all_hosts run_host_command
}

run_host_command() { on_host "$1" "$2" "$host_command"; }

# Waits until all machines are ready.
wait_for_machines() {
    local node state
    while read -r node; do
        while :; do
            state=$(node_state "$node")
            case $state in
                READY) break ;;
                PREEMPTED | TERMINATED | FAILED | DELETING)
                    die "$node is $state" "tpu-scripts/resume $run deletes and creates it again" ;;
            esac
            if [[ $queued == yes ]]; then
                case $(tpus queued-resources describe "$run" '--format=value(state.state)' 2>/dev/null) in
                    FAILED | SUSPENDED)
                        die "the request for $run has failed" "gcloud compute tpus queued-resources describe $run says why" ;;
                esac
            fi
            say "waiting for $node: $state"
            sleep "$MESH_POLL"
        done
    done < <(nodes)
    # A small slice may be one machine with more chips than a host of a large slice has.
    hosts=$(node_hosts "$(nodes | head -n 1)" | tr ',' '\n' | wc -l)
    assignments hosts >"$folder/hosts.env"
}

# Requests the machines of the run.
request_machines() {
    local options=()
    # There may be several slices of one size; gcloud takes the topology of v4 only.
    if [[ $type == v4 ]]; then
        options+=("--type=$type" "--topology=$topology")
    else
        options+=("--accelerator-type=$accelerator_type")
    fi
    [[ -z $capacity ]] || options+=("--$capacity")
    [[ -z $service_account ]] || options+=("--service-account=$service_account")
    [[ -z $network ]] || options+=("--network=$network")
    if [[ $queued == yes ]]; then
        options+=("--runtime-version=$runtime_version" --async)
        if [[ $slices == 1 ]]; then
            options+=("--node-id=$run")
        else
            options+=("--node-count=$slices" "--node-prefix=$run")
        fi
        tpus queued-resources create "$run" "${options[@]}"
    else
        tpus tpu-vm create "$run" "--version=$runtime_version" "${options[@]}"
    fi
}

# Deletes the machines of the run, whatever their state: preempted ones stay listed until they are deleted.
delete_machines() {
    local node
    if [[ $queued == yes ]]; then
        tpus queued-resources delete "$run" --force
        return
    fi
    while read -r node; do
        [[ $(node_state "$node") == ABSENT ]] || tpus tpu-vm delete "$node"
    done < <(nodes)
}

# ---- Following the program ----

# Looks in a row at which a host may not answer before the state of its machine is asked for.
readonly PATIENCE=3

# Copies the program to the bucket once.
distribute() {
    local files=$bucket/$run/files
    gcloud storage cp "$binary" "$files/meshc" --quiet
    gcloud storage cp "$(dirname "$0")/worker" "$files/worker" --quiet
    gcloud storage rsync --recursive --delete-unmatched-destination-objects "$artefact" "$files/artefact" --quiet
}

# A secret that only the hosts of this run know.
token() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }

# Starts training on all hosts, detached. $1 is yes to resume from the newest checkpoint.
# shellcheck disable=SC2016 # The host expands the variables.
start_all() {
    local node index slice=0 all first='' secret words='' word
    secret=$(token)
    while read -r word; do words+=" $word"; done <"$folder/train.args"
    if [[ $words != *--run-dir* && $words != *--checkpoint-dir* ]]; then
        words+=" --run-dir run --checkpoint-dir $bucket/$run/checkpoints"
    fi
    [[ $1 == no ]] || words+=' --resume'
    rm -f "$folder"/*.command
    while read -r node; do
        all=$(node_hosts "$node")
        first=${first:-${all%%,*}}
        for ((index = 0; index < hosts; index++)); do
            {
                printf 'set -e\nfolder=$HOME/mesh-runs/%s\n' "$run"
                printf 'mkdir -p "$folder"\nchmod 700 "$folder"\n'
                # What an earlier run left on the host is ended first.
                printf 'if [ -f "$folder/worker" ]; then bash "$folder/worker" stop "$folder"; fi\n'
                printf 'gcloud storage rsync --recursive %q "$folder" --quiet\n' "$bucket/$run/files"
                printf 'chmod +x "$folder/meshc"\n'
                printf 'cat >"$folder/environment" <<"END"\n'
                "$MESHC" slice "$target" --hosts "$all" --worker "$index" --slice "$slice" --coordinator "$first"
                printf 'MESH_JOB_TOKEN=%s\nTPU_LIBRARY_PATH=~/mesh-libtpu/libtpu/libtpu.so\n' "$secret"
                # Rank 0 writes metrics, which are copied to the bucket.
                [[ $slice$index != 00 ]] || printf 'MESH_SYNC_TO=%q\n' "$bucket/$run/run"
                printf 'END\n'
                printf 'cat >"$folder/command" <<"END"\n./meshc train artefact%s\nEND\n' "$words"
                printf 'bash "$folder/worker" start "$folder" %s\n' "$restarts"
            } >"$folder/$node-$index.command"
        done
        slice=$((slice + 1))
    done < <(nodes)
    start_prepared || {
        stop_all
        die "not all hosts could be started; those that were are ended again"
    }
}

# Runs the prepared command of every host.
start_prepared() {
    local failed=0
    for_all_hosts run_prepared_command || failed=1
    # The commands have the secret.
    rm -f "$folder"/*.command
    return "$failed"
}

# From a file, because arguments, unlike the secret, are visible to all users.
run_prepared_command() { on_host "$1" "$2" 'bash -s' <"$folder/$1-$2.command"; }

# Ends the run on all hosts.
stop_all() {
    # shellcheck disable=SC2016 # The host expands the variables.
    on_all_hosts 'folder=$HOME/mesh-runs/'"$run"'; [ ! -f "$folder/worker" ] || bash "$folder/worker" stop "$folder"' || true
}

# Asks all hosts for their state, which is written to NODE-INDEX.out.
ask_all() {
    # shellcheck disable=SC2016 # The host expands the variables.
    on_all_hosts 'bash "$HOME/mesh-runs/'"$run"'/worker" state "$HOME/mesh-runs/'"$run"'"' 2>/dev/null || true
}

# Waits until all hosts have ended. Exits with the code of the first that failed.
follow() {
    local node index state code at first first_at first_code running silent=0 mute
    say "following $run; Ctrl-C ends the following, not the run"
    while :; do
        ask_all
        running=0 first='' first_at='' first_code=0 mute=''
        while read -r node index; do
            state=$(tail -n 1 "$folder/$node-$index.out")
            case $state in
                running*) running=$((running + 1)) ;;
                "exited "*)
                    read -r _ code at <<<"$state"
                    [[ $code != 0 ]] || continue
                    # A host that ended because of another one (42) is not the cause.
                    [[ $code == 42 ]] && at="1 $at" || at="0 $at"
                    if [[ -z $first || $at < $first_at ]]; then
                        first="$node $index" first_at=$at first_code=$code
                    fi ;;
                *) mute+=" $node-$index" ;;
            esac
        done < <(hosts_of_run)
        if [[ -n $first ]]; then
            read -r node index <<<"$first"
            say "error: host $index of $node failed first, with exit code $first_code; the end of its log:"
            show_log "$node" "$index" 20 >&2 || true
            stop_all
            exit "$first_code"
        fi
        if [[ -n $mute ]]; then
            silent=$((silent + 1))
            [[ $silent -lt $PATIENCE ]] || name_lost "$mute"
        else
            silent=0
            [[ $running -gt 0 ]] || break
        fi
        sleep "$MESH_POLL"
    done
    say "$run has ended on all hosts; results are in $bucket/$run"
}

# Explains hosts that do not answer.
name_lost() {
    local node state
    while read -r node; do
        state=$(node_state "$node")
        if [[ $state != READY ]]; then
            say "error: $node is $state"
            say "  help: tpu-scripts/resume $run deletes and creates it again, and resumes from the newest checkpoint"
            exit 3
        fi
    done < <(nodes)
    stop_all
    die "hosts do not answer:$1" "gcloud compute tpus tpu-vm ssh shows why; tpu-scripts/launch $run --follow goes on"
}

# Prints the last $3 lines of the log of host $2 of slice $1.
show_log() {
    # shellcheck disable=SC2016 # The host expands the variables.
    on_host "$1" "$2" 'tail -n '"$3"' "$HOME/mesh-runs/'"$run"'/log"'
}
