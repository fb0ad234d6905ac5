# Slurm runs this anew after a preemption, a dead node or a requeue: each time an attempt goes on from the job's last checkpoint.
set -u
told=
# shellcheck disable=SC2317 # the traps call it
pass_on() {
  told=$1
  kill -s "$1" "$attempt" 2>/dev/null
}
"$@" &
attempt=$!
trap 'pass_on USR1' USR1
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT
while :; do
  wait "$attempt"
  code=$?
  kill -0 "$attempt" 2>/dev/null || break # else a signal ended the waiting
done
if [ "$code" = 75 ] && [ "$told" != TERM ] && [ "$told" != INT ] && again; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
