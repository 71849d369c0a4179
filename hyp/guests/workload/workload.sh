# The workload: each step makes one kind of interrupt traffic and checks what came of it.
#
# Every step prints a line `@workload step=NAME status=ok|fail|skip ms=N DETAILS` for the
# program that reads the console. A failing step does not keep the others from running.

CPUS=$(grep -c '^processor' /proc/cpuinfo)
LAST=$((CPUS - 1))
DETAIL=

# Milliseconds since boot, in NOW.
now() {
    read -r up _ </proc/uptime
    NOW=$((${up%.*} * 1000 + 1${up#*.}0 - 1000))
}

# step NAME FUNCTION: runs a step; 0 is success, 2 "does not apply here".
step() {
    echo "--- $1"
    DETAIL=
    now
    step_began=$NOW
    "$2"
    case $? in
    0) status=ok ;;
    2) status=skip ;;
    *) status=fail ;;
    esac
    now
    echo "@workload step=$1 status=$status ms=$((NOW - step_began)) $DETAIL"
}

# on CPU COMMAND...: runs a command on one vCPU.
on() {
    on_mask=$(printf %x $((1 << $1)))
    shift
    taskset "$on_mask" "$@"
}

# until_true SECONDS COMMAND...: waits for a command to succeed.
until_true() {
    patience=$(($1 * 10))
    shift
    until "$@"; do
        [ $((patience -= 1)) -gt 0 ] || return 1
        usleep 100000
    done
}

md5() {
    md5sum | cut -d' ' -f1
}

# The kernel's table of interrupts, for people and for the report.
interrupts() {
    echo "@workload table=begin when=$1"
    cat /proc/interrupts
    echo "@workload table=end"
}

# The whole disk past the page cache: one request after another, each ended by an MSI.
blk() {
    sum=$(dd if=/dev/vda iflag=direct bs=256k 2>/dev/null | md5)
    DETAIL="mib=$BLK_MIB sum=$sum"
    [ "$sum" = "$BLK_SUM" ]
}

# One half of the traffic comes from the peer, the other half goes back to it.
net() {
    echo get | nc 10.0.2.2 "$NET_PORT" >/tmp/net
    got=$(md5 </tmp/net)
    returned=$({ echo "put $NET_BYTES"; cat /tmp/net; } | nc 10.0.2.2 "$NET_PORT")
    rm /tmp/net
    DETAIL="bytes=$NET_BYTES got=$got returned=$returned"
    [ "$got" = "$NET_SUM" ] && [ "$returned" = "$NET_SUM" ]
}

rng() {
    first=$(dd if=/dev/hwrng bs=1k count=16 2>/dev/null | md5)
    second=$(dd if=/dev/hwrng bs=1k count=16 2>/dev/null | md5)
    zeros=$(dd if=/dev/zero bs=1k count=16 2>/dev/null | md5)
    DETAIL="first=$first second=$second"
    [ "$first" != "$second" ] && [ "$first" != "$zeros" ] && [ "$second" != "$zeros" ]
}

# ipis NAME: how many inter-processor interrupts of a kind were taken.
ipis() {
    awk -v name="$1" -v cpus="$CPUS" \
        'index($0, name) { for (i = 2; i < cpus + 2; i++) n += $i } END { print n + 0 }' \
        /proc/interrupts
}

# Bytes travel round a ring of pipes through all vCPUs, each handing them on to the next, while
# something computes on each: every hop wakes a process on another vCPU.
smp() {
    [ "$CPUS" -gt 1 ] || return 2
    resched=$(ipis 'Rescheduling interrupts')
    calls=$(ipis 'Function call interrupts')
    laps=$((ROUNDS * 400 / CPUS + 20))
    for cpu in $(seq 0 $LAST); do
        mkfifo /tmp/ring$cpu
    done
    jobs=
    for cpu in $(seq 0 $LAST); do
        next=$(((cpu + 1) % CPUS))
        on $cpu dd bs=1 count=$laps 0<>/tmp/ring$cpu 1<>/tmp/ring$next 2>/dev/null &
        jobs="$jobs $!"
    done
    printf '%s' x >/tmp/ring0
    for cpu in $(seq 0 $LAST); do
        on $cpu sh -c 'head -c 4194304 /dev/zero | md5sum' >/dev/null &
        jobs="$jobs $!"
    done
    wait $jobs
    rm /tmp/ring*
    resched=$(($(ipis 'Rescheduling interrupts') - resched))
    calls=$(($(ipis 'Function call interrupts') - calls))
    DETAIL="laps=$laps reschedule=$resched calls=$calls"
    [ $resched -gt 0 ] && [ $calls -gt 0 ]
}

# Reads all devices over and over until told to stop, in LOAD.
load_begin() {
    (
        while :; do
            dd if=/dev/vda iflag=direct bs=64k count=64 of=/dev/null 2>/dev/null
        done
    ) &
    LOAD=$!
    (
        while :; do
            echo get | nc 10.0.2.2 "$NET_PORT" >/dev/null
        done
    ) &
    LOAD="$LOAD $!"
    (
        while :; do
            dd if=/dev/hwrng of=/dev/null bs=512 count=8 2>/dev/null || usleep 1000
        done
    ) &
    LOAD="$LOAD $!"
}

load_end() {
    kill $LOAD
    wait $LOAD 2>/dev/null
    killall -q dd nc
    sleep 1
}

online() {
    echo "$2" >/sys/devices/system/cpu/cpu"$1"/online
    [ "$(cat /sys/devices/system/cpu/cpu"$1"/online)" = "$2" ]
}

# Takes vCPUs off line and on line again: their interrupts go elsewhere and come back.
hotplug() {
    [ "$CPUS" -gt 1 ] || return 2
    load_begin
    result=0
    cycles=0
    for round in $(seq 1 $ROUNDS); do
        cpu=$((1 + (round - 1) % LAST))
        online $cpu 0 && online $cpu 1 || result=1
        cycles=$((cycles + 1))
    done
    load_end
    on $LAST true || result=1
    DETAIL="cycles=$cycles"
    return $result
}

# irq_of DEVICE QUEUE: the number of a virtio queue's interrupt.
irq_of() {
    awk -v name="$1-$2" '$NF == name { sub(":", "", $1); print $1 }' /proc/interrupts
}

# count IRQ CPU: how many of an interrupt one vCPU took.
count() {
    awk -v irq="$1:" -v column=$(($2 + 2)) '$1 == irq { print $column }' /proc/interrupts
}

took_more() {
    [ "$(count "$1" "$2")" -gt "$3" ]
}

# Moves the network's and the entropy device's interrupts from vCPU to vCPU while they flow, and
# sees them arrive where they were sent.
affinity() {
    [ "$CPUS" -gt 1 ] || return 2
    net=$(basename "$(readlink /sys/class/net/eth0/device)")
    rng=$(basename /sys/bus/virtio/drivers/virtio_rng/virtio*)
    irqs="$(irq_of "$net" input.0) $(irq_of "$rng" input)"
    load_begin
    result=0
    moves=0
    arrivals=0
    for round in $(seq 1 $((ROUNDS * 8))); do
        for irq in $irqs; do
            cpu=$(((round * 7 + irq) % CPUS))
            before=$(count $irq $cpu)
            echo $cpu >/proc/irq/$irq/smp_affinity_list || result=1
            moves=$((moves + 1))
            [ "$(cat /proc/irq/$irq/effective_affinity_list)" = $cpu ] || result=1
            # Not every move is waited for: most follow each other as fast as they go.
            if [ $((round % 4)) = 0 ]; then
                until_true 20 took_more $irq $cpu "$before" || result=1
                arrivals=$((arrivals + 1))
            fi
        done
    done
    load_end
    DETAIL="irqs=$(echo $irqs | tr ' ' ,) moves=$moves arrivals=$arrivals"
    return $result
}

# Takes drivers from their devices under load and gives them back: every MSI of theirs is
# discarded and mapped anew.
rebind() {
    load_begin
    result=0
    cycles=0
    for round in $(seq 1 $ROUNDS); do
        for driver in virtio_rng virtio_blk; do
            directory=/sys/bus/virtio/drivers/$driver
            device=$(basename $directory/virtio*)
            echo "$device" >$directory/unbind || result=1
            echo "$device" >$directory/bind || result=1
            cycles=$((cycles + 1))
        done
    done
    load_end
    until_true 20 [ -b /dev/vda ] || result=1
    dd if=/dev/hwrng of=/dev/null bs=512 count=8 2>/dev/null || result=1
    sum=$(dd if=/dev/vda iflag=direct bs=256k 2>/dev/null | md5)
    [ "$sum" = "$BLK_SUM" ] || result=1
    DETAIL="cycles=$cycles sum=$sum"
    return $result
}

# What the kernel counted since it started, by kind of interrupt, in one line. It all comes from
# one read of /proc/stat, which counts every CPU, off line or not, and in its total also the
# interrupts whose descriptor is gone: the LPIs of drivers that were unbound. /proc/interrupts
# only says which number is of which kind; it does not list IPIs by number.
final() {
    awk -v cpus="$CPUS" '
        FILENAME == "/proc/interrupts" {
            irq = $1; sub(":", "", irq); chip = $(cpus + 2)
            if (chip ~ /^GIC/) kind[irq] = $(cpus + 3) < 32 ? "ppi" : "spi"
            else if (chip ~ /ITS/) kind[irq] = "lpi"
            else kind[irq] = "other"
        }
        $1 == "intr" {
            freed = $2
            for (i = 3; i <= NF; i++) {
                irq = i - 3
                n[irq in kind ? kind[irq] : "sgi"] += $i
                freed -= $i
            }
            printf "@workload final sgi=%d ppi=%d spi=%d lpi=%d lpi_freed=%d other=%d\n",
                n["sgi"], n["ppi"], n["spi"], n["lpi"], freed, n["other"]
        }' /proc/interrupts /proc/stat
}

echo "@workload begin cpus=$CPUS kernel=$(uname -r)"
interrupts before
step blk blk
step net net
step rng rng
step smp smp
step hotplug hotplug
step affinity affinity
step rebind rebind
interrupts after
sleep 1
final
