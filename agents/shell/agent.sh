#!/usr/bin/env bash
# An agent of Callboard from bash, jq and the `nats` command: it signs in, beats, takes offers, and repeats its reports
# until they are recorded. The contract is docs/protocol.md, section 3.
#
# Three kinds of processes share the files in STATE: the main one beats; `agent.sh order` answers one order (started by
# `nats reply`, one at a time); `agent.sh work KEY` runs one attempt and reports it.
#   held/KEY/       an accepted attempt whose report is not answered; KEY is <task_id>.<attempt>
#   recent/KEY      the answer that an offer got; kept until the agent ends, a few bytes each
#   epoch heard lease leave_by registered lease_lost drained leaving      facts: a value, or that the file exists
set -u -o pipefail

ID=${CALLBOARD_AGENT_ID:-shell-1}
SLOTS=${CALLBOARD_SLOTS:-1}
ROOT=callboard.v1.${CALLBOARD_POOL:-default}
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/handlers.sh"

now() { local t=${EPOCHREALTIME/[.,]/}; echo "${t:0:-3}"; }
has() { [[ -e $STATE/$1 ]]; }
get() { cat "$STATE/$1" 2>/dev/null || echo "$2"; }
put() { echo "$2" >"$STATE/$1.$BASHPID" && mv "$STATE/$1.$BASHPID" "$STATE/$1"; }
wake() { echo >"$STATE/wake"; }
seconds() { printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)); }
lease_over() { has lease_lost || (($(now) - $(get heard 9999999999999) > $(get lease 15000))); }

# Doubles from 200 ms to 5 s, and is spread so that a fleet does not march in step.
backoff() { local ms=$((200 << ($1 < 5 ? $1 - 1 : 5))); ms=$((ms < 5000 ? ms : 5000)); echo $((ms / 2 + RANDOM % ms)); }

# ask VERB TIMEOUT <BODY: the answer of the orchestrator, empty when there was none
ask() {
  nats --inbox-prefix "_INBOX.$ID" --timeout "$2" \
    req "$ROOT.agent.$ID.$1" --raw --no-templates --force-stdin 2>/dev/null
}
code_of() { jq -r '.error.code // empty' <<<"$1"; }

progress() {
  jq -nc --argjson ref "$REF" --argjson percent "$1" --arg message "${2:-}" '$ref + {$percent, $message}' |
    nats pub "$ROOT.agent.$ID.progress" --quiet --no-templates --force-stdin 2>/dev/null
}

# --- orders: what comes on to.<agent_id>.<verb>; no output and status 1 is no answer --------------------------------

accept_or_decline() { # KEY TYPE
  local key=$1 type=$2 reason
  if [[ -d $STATE/held/$key ]]; then echo '{"accepted": true}'; return; fi
  if has "recent/$key"; then get "recent/$key" ''; return; fi
  if has leaving || has drained; then reason=draining
  elif lease_over; then reason=lease_lost
  elif ! declare -F "task_$type" >/dev/null; then reason=unsupported
  elif (($(find "$STATE/held" -name handler | wc -l) >= SLOTS)); then reason=busy
  else
    mkdir "$STATE/held/$key"
    printf %s "$NATS_REQUEST_BODY" >"$STATE/held/$key/offer"
    touch "$STATE/held/$key/handler"
    bash "$HERE/agent.sh" work "$key" </dev/null >/dev/null 2>>"$STATE/log" &
    echo '{"accepted": true}'
    return
  fi
  put "recent/$key" "{\"accepted\": false, \"reason\": \"$reason\"}"
  get "recent/$key" ''
}

# Stop an attempt, of which nothing more is said, and decline it should it be offered again.
cancel() { # KEY
  put "recent/$1" '{"accepted": false, "reason": "cancelled"}'
  local gone=$STATE/gone/$1.$BASHPID
  mv "$STATE/held/$1" "$gone" 2>/dev/null || return 0
  stop_handler "$gone"
  wake
}
stop_handler() { local pid; pid=$(cat "$1/handler" 2>/dev/null); [[ -z $pid ]] || kill -- "-$pid" 2>/dev/null; }

order() {
  kill -0 "$MAIN" 2>/dev/null || kill 0 # the main process was killed: so is whoever listens and works for it
  local verb=${NATS_REQUEST_SUBJECT##*.} epoch task_id attempt type grace
  read -r epoch task_id attempt type grace < <(
    jq -r 'select(.epoch | type == "number") | [.epoch, .task_id, .attempt, .type, .grace_ms] | map(tostring) | @tsv' \
      <<<"$NATS_REQUEST_BODY" 2>/dev/null
  )
  if [[ ! ${epoch-} =~ ^[0-9]+$ ]]; then
    [[ $verb == assign ]] && echo '{"accepted": false, "reason": "invalid_request"}'
    return
  fi
  ((epoch >= $(get epoch 0))) || return 1 # of an owner that is no more
  put epoch "$epoch"
  local key=$task_id.$attempt
  case $verb in
    assign | cancel) [[ $key =~ ^[0-9a-f-]{36}\.[0-9]+$ && $type =~ ^[A-Za-z0-9_-]+$ ]] || return 1 ;;&
    assign) accept_or_decline "$key" "$type"; return ;;
    cancel) cancel "$key" ;;
    drain) touch "$STATE/drained" ;;
    shutdown) put leave_by $(($(now) + grace)); touch "$STATE/leaving"; wake ;;
    *) return 1 ;;
  esac
  echo '{}'
}

# --- work: one attempt ----------------------------------------------------------------------------------------------

work() { # KEY
  local held=$STATE/held/$1 verb=complete failures=1 type answer code
  REF=$(jq -c --arg incarnation "$INCARNATION" '{task_id, attempt, $incarnation}' "$held/offer")
  TASK_ID=${1%.*}
  export REF TASK_ID
  type=$(jq -r .type "$held/offer")
  jq -c .payload "$held/offer" >"$held/payload"
  set -m # the handler gets a process group of its own, which a cancel ends
  ( set -e; "task_$type" ) <"$held/payload" >"$held/result" 2>"$held/errors" &
  echo $! >"$held/handler"
  set +m
  if wait $! && jq -c --argjson ref "$REF" '$ref + {result: .}' "$held/result" >"$held/report" 2>>"$held/errors"; then
    :
  elif [[ -d $held ]]; then
    verb=fail
    tail -n 1 "$held/errors" | jq -cR --argjson ref "$REF" '$ref + {error: {message: .}}' >"$held/report"
  fi
  rm -f "$held/handler"
  while [[ -d $held ]]; do
    answer='' code=''
    if has registered; then answer=$(ask "$verb" 5s <"$held/report"); code=$(code_of "$answer"); fi
    case $verb,$code in
      complete,invalid_request | complete,payload_too_large)
        verb=fail failures=1
        jq -c --argjson ref "$REF" \
          '$ref + {error: {type: "result_refused", message: .error.message, retryable: false}}' \
          <<<"$answer" >"$held/report"
        continue ;;
      *,unknown_incarnation) rm -f "$STATE/registered"; wake ;;
      *,) [[ -n $answer ]] && settle "$1" ;;
      *) [[ $(jq .error.retryable <<<"$answer") == false ]] && settle "$1" ;;
    esac
    [[ -d $held ]] && sleep "$(seconds "$(backoff $((failures++)))")"
  done
}

settle() { # KEY: its report is answered
  put "recent/$1" '{"accepted": true}'
  mv "$STATE/held/$1" "$STATE/gone/$1.$BASHPID" 2>/dev/null
  if has leaving; then wake; fi
}

# --- the main process: register and beat ----------------------------------------------------------------------------

running() {
  local key list=()
  for key in $(ls "$STATE/held"); do list+=("{\"task_id\":\"${key%.*}\",\"attempt\":${key#*.}}"); done
  local IFS=,
  echo "[${list[*]-}]"
}

# beat: register or send a heartbeat; status 1 when it was not answered
beat() {
  local sent answer epoch interval lease drain key draining=false verb=register timeout=5s about code
  lease_over && touch "$STATE/lease_lost" && rm -f "$STATE/registered"
  has leaving && draining=true
  about="\"slots\":$SLOTS,\"version\":\"1.0.0\""
  if has registered; then verb=heartbeat timeout=${INTERVAL}ms about="\"seq\":$((++SEQ))"; fi
  sent=$(now)
  answer=$(ask $verb $timeout \
    <<<"{\"incarnation\":\"$INCARNATION\",\"running\":$(running),\"draining\":$draining,$about}") || return 1
  [[ -n $answer ]] || return 1
  code=$(code_of "$answer")
  case $code in
    '') ;;
    unknown_incarnation) rm -f "$STATE/registered"; wake; return 0 ;;
    *)
      echo "$verb: $code" >&2
      if [[ $code == incarnation_replaced || $(jq .error.retryable <<<"$answer") == false ]]; then give_up; fi
      return 1 ;;
  esac
  read -r epoch INTERVAL lease drain < <(jq -r '[.epoch, .heartbeat_interval_ms, .lease_ms, .drain] | @tsv' <<<"$answer")
  if ((epoch < $(get epoch 0))) && [[ $verb == heartbeat || ! -e $STATE/lease_lost ]]; then return 1; fi
  put epoch "$epoch"; put heard "$sent"; put lease "$lease"
  if [[ $drain == true ]]; then touch "$STATE/drained"; else rm -f "$STATE/drained"; fi
  if [[ $verb == register ]]; then rm -f "$STATE/lease_lost"; touch "$STATE/registered"; fi
  for key in $(jq -r '.cancel[] | "\(.task_id).\(.attempt)"' <<<"$answer"); do cancel "$key"; done
}

listen() {
  while :; do
    nats reply "$ROOT.to.$ID.*" --queue "$ID" --command "bash $HERE/agent.sh order" >/dev/null 2>>"$STATE/log"
    sleep 0.2
  done
}

stop_all() {
  local held
  for held in "$STATE"/held/*/; do stop_handler "$held"; done
  kill -- "-$LISTENER" # with all that it has started: orders and work
  rm -rf "$STATE"
}
give_up() { stop_all 2>/dev/null; exit 1; }

main() {
  STATE=$(mktemp -d) INCARNATION=$(cat /proc/sys/kernel/random/uuid 2>/dev/null || uuidgen)
  MAIN=$$
  export STATE INCARNATION MAIN
  INTERVAL=5000 SEQ=0
  mkdir "$STATE/held" "$STATE/recent" "$STATE/gone"
  mkfifo "$STATE/wake"
  exec 3<>"$STATE/wake"
  trap 'touch "$STATE/leaving"; wake' TERM INT
  set -m # a process group of their own for whoever listens and works: Ctrl-C is for the main process alone
  listen &
  LISTENER=$!
  set +m
  local failures=0 pause
  while :; do
    if has leaving && { [[ -z $(ls "$STATE/held") ]] || (($(now) >= $(get leave_by 9999999999999))); }; then break; fi
    if beat; then failures=0 pause=$((INTERVAL * 4 / 5 + RANDOM % (INTERVAL * 2 / 5)))
    else pause=$(backoff $((++failures))) pause=$((pause < INTERVAL ? pause : INTERVAL)); fi
    if has leave_by; then
      local left=$(($(get leave_by 0) - $(now)))
      left=$((left > 1 ? left : 1)) pause=$((pause < left ? pause : left))
    fi
    read -rt "$(seconds "$pause")" -u 3
    while read -rt 0.001 -u 3; do :; done
  done
  ask leave 1s <<<"{\"incarnation\":\"$INCARNATION\"}" >/dev/null
  stop_all 2>/dev/null
  exit 0
}

case ${1-} in
  order) order ;;
  work) work "$2" ;;
  *) main ;;
esac
