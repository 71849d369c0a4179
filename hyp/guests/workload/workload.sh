# The workload: each step makes one kind of interrupt traffic and checks what came of it.
#
# Every step prints a line `@workload step=NAME status=ok|fail|skip ms=N DETAILS` for the
# program that reads the console. The other steps run even if one fails.

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
    case " $LEFT_OUT " in
    *" $1 "*) (exit 2) ;;
    *) "$2" ;;
    esac
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
    on_cpu=$1
    shift
    taskset -c "$on_cpu" "$@"
}

# until_true SECONDS COMMAND...: waits for a command to succeed.
until_true() {
    patience=$(($1 * 20))
    shift
    until "$@"; do
        [ $((patience -= 1)) -gt 0 ] || return 1
        usleep 50000
    done
}

md5() {
    md5sum | cut -d' ' -f1
}

# True if there are so many vCPUs that neither a line of the console nor a busy process for each will
# do.
many() {
    [ "$CPUS" -gt 16 ]
}

# The kernel's table of interrupts, for people and for the report: with many vCPUs, their sums.
interrupts() {
    echo "@workload table=begin when=$1"
    if many; then
        awk -v cpus="$CPUS" '
            NR == 1 { print "CPU0"; next }
            {
                sum = 0
                for (i = 2; i < cpus + 2 && $i ~ /^[0-9]+$/; i++) sum += $i
                row = $1 " " sum
                for (; i <= NF; i++) row = row " " $i
                print row
            }' /proc/interrupts
    else
        cat /proc/interrupts
    fi
    echo "@workload table=end"
}

# disk SERIAL: the device node of a disk; its name may change when drivers come and go.
disk() {
    for found in /sys/block/vd*; do
        [ "$(cat "$found"/serial 2>/dev/null)" = "$1" ] && echo /dev/"${found##*/}"
    done
}

# disk_sum SERIAL: the MD5 of a whole disk, read past the page cache.
disk_sum() {
    dd if="$(disk "$1")" iflag=direct bs=256k 2>/dev/null | md5
}

# spis NAME: how many of a shared peripheral's interrupts were taken, by its line.
spis() {
    awk -v name="$1" -v cpus="$CPUS" \
        '$NF ~ name && /GIC/ && !/GICv2m/ { for (i = 2; i < cpus + 2; i++) n += $i } END { print n + 0 }' \
        /proc/interrupts
}

# The console's input: the program that watches the console types every word asked for, each
# character an interrupt of the UART.
uart() {
    before=$(spis uart)
    stty -echo
    result=0
    words=$((ROUNDS * 4))
    for word in $(seq 1 $words); do
        echo "@workload ask=word-$word"
        read -r -t 30 answer && [ "$answer" = "word-$word" ] || result=1
    done
    stty echo
    taken=$(($(spis uart) - before))
    DETAIL="words=$words interrupts=$taken"
    [ $result = 0 ] && [ $taken -gt 0 ]
}

# The whole disk: one request after another, each ended by an MSI.
blk() {
    sum=$(disk_sum msi)
    DETAIL="mib=$BLK_MIB sum=$sum"
    [ "$sum" = "$BLK_SUM" ]
}

# The whole disk, behind a controller without MSIs, whose line stays up until the driver has
# looked.
intx() {
    [ -n "$(disk intx)" ] || return 2
    before=$(spis virtio)
    sum=$(disk_sum intx)
    taken=$(($(spis virtio) - before))
    DETAIL="mib=$BLK_MIB sum=$sum interrupts=$taken"
    [ "$sum" = "$BLK_SUM" ] && [ $taken -gt 0 ]
}

# The payload comes from the peer and goes back to it. It is text: wget posts no NUL.
net() {
    wget -q -O /run/net "http://10.0.2.2:$NET_PORT/payload"
    got=$(md5 </run/net)
    returned=$(wget -q -O - --post-file /run/net "http://10.0.2.2:$NET_PORT/sum")
    rm -f /run/net
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

# The hypervisor's memory: the largest gap in the RAM, or the first byte behind it.
foreign() {
    sed -n 's/^\([0-9a-f]*\)-\([0-9a-f]*\) : System RAM$/0x\1 0x\2/p' /proc/iomem >/run/ram
    end=0
    found=
    # The firmware keeps small pieces, too.
    gap=$((16 << 20))
    while read -r first last; do
        if [ $end -gt 0 ] && [ $((first - end)) -gt $gap ]; then
            gap=$((first - end))
            found=$end
        fi
        end=$((last + 1))
    done </run/ram
    printf '0x%x\n' ${found:-$end}
}

# edu FROM TO COMMAND: has the device of QEMU that is made for lessons copy four bytes.
edu() {
    devmem $((EDU + 0x80)) 64 "$1"
    devmem $((EDU + 0x88)) 64 "$2"
    devmem $((EDU + 0x90)) 64 4
    devmem $((EDU + 0x98)) 64 "$3"
    # The device's time is a tenth of a second.
    until_true 5 edu_is_idle
}

edu_is_idle() {
    [ $(($(devmem $((EDU + 0x98)) 64) & 1)) = 0 ]
}

# A device reads the guest's memory, and then reads and writes the hypervisor's, which begins at the
# end of the guest's. The hypervisor counts what its SMMU aborts.
dma() {
    device=$(dirname "$(grep -ls 0x11e8 /sys/bus/pci/devices/*/device)")
    [ -f "$device"/enable ] || return 2
    echo 1 >"$device"/enable
    # The command register: memory space and bus master.
    printf '\006' | dd of="$device"/config bs=1 seek=4 conv=notrunc 2>/dev/null
    EDU=$(head -n 1 "$device"/resource | cut -d' ' -f1)
    own=$(sed -n 's/^\([0-9a-f]*\)-.* : System RAM$/0x\1/p' /proc/iomem | head -n 1)
    foreign=$(foreign)
    buffer=$((0x40000))
    # 1 begins, 2 is the direction from the device.
    edu $((own)) $buffer 1 && edu $foreign $buffer 1 && edu $buffer $foreign 3
    result=$?
    DETAIL="own=$own foreign=$(printf 0x%x $foreign)"
    return $result
}

# ipis NAME: how many inter-processor interrupts of a kind were taken.
ipis() {
    awk -v name="$1" -v cpus="$CPUS" \
        'index($0, name) { for (i = 2; i < cpus + 2; i++) n += $i } END { print n + 0 }' \
        /proc/interrupts
}

# Bytes travel between vCPUs: every hop wakes a process on another vCPU.
smp() {
    [ "$CPUS" -gt 1 ] || return 2
    resched=$(ipis 'Rescheduling interrupts')
    calls=$(ipis 'Function call interrupts')
    if many; then
        random_pairs
    else
        ring
    fi
    result=$?
    resched=$(($(ipis 'Rescheduling interrupts') - resched))
    calls=$(($(ipis 'Function call interrupts') - calls))
    DETAIL="$DETAIL reschedule=$resched calls=$calls"
    [ $result = 0 ] && [ $resched -gt 0 ] && [ $calls -gt 0 ]
}

# Hands words on through all vCPUs, each to a random one that has had none.
random_pairs() {
    hops=0
    from=$LAST
    for cpu in $(seq 0 $LAST | shuf); do
        [ "$(on $from echo $cpu | on $cpu cat)" = $cpu ] || return 1
        from=$cpu
        hops=$((hops + 1))
    done
    DETAIL="hops=$hops"
}

# Bytes travel round a ring of pipes through all vCPUs, each handing them on to the next, while
# something computes on each.
ring() {
    laps=$((ROUNDS * 400 / CPUS + 20))
    for cpu in $(seq 0 $LAST); do
        mkfifo /run/ring$cpu
    done
    jobs=
    for cpu in $(seq 0 $LAST); do
        next=$(((cpu + 1) % CPUS))
        on $cpu dd bs=1 count=$laps 0<>/run/ring$cpu 1<>/run/ring$next 2>/dev/null &
        jobs="$jobs $!"
    done
    printf '%s' x >/run/ring0
    for cpu in $(seq 0 $LAST); do
        on $cpu sh -c "head -c $((16777216 / CPUS)) /dev/zero | md5sum" >/dev/null &
        jobs="$jobs $!"
    done
    wait $jobs
    rm /run/ring*
    DETAIL="laps=$laps"
}

# Reads all devices over and over until told to stop, in LOAD.
load_begin() {
    (
        while :; do
            # A disk whose driver was taken away is looked for again.
            for found in /sys/block/vd*; do
                dd if=/dev/"${found##*/}" iflag=direct bs=16k count=64 of=/dev/null 2>/dev/null
            done || usleep 1000
        done
    ) &
    LOAD=$!
    (
        while :; do
            wget -q -O /dev/null "http://10.0.2.2:$NET_PORT/payload"
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
    killall -q dd wget
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

# move IRQ CPU: moves an interrupt to a vCPU.
move() {
    echo "$2" >/proc/irq/"$1"/smp_affinity_list &&
        [ "$(cat /proc/irq/"$1"/effective_affinity_list)" = "$2" ]
}

# Moves the network's and the entropy device's interrupts from vCPU to vCPU under load, to the last
# one in the end, and checks that they arrive at their targets.
affinity() {
    [ "$CPUS" -gt 1 ] || return 2
    net=$(basename "$(readlink /sys/class/net/eth0/device)")
    rng=$(basename /sys/bus/virtio/drivers/virtio_rng/virtio*)
    irqs="$(irq_of "$net" input.0) $(irq_of "$rng" input)"
    load_begin
    result=0
    moves=0
    arrivals=0
    rounds=$((ROUNDS * 6))
    for round in $(seq 1 $rounds); do
        for irq in $irqs; do
            cpu=$(((round * 7 + irq) % CPUS))
            [ $round -lt $rounds ] || cpu=$LAST
            before=$(count $irq $cpu)
            move $irq $cpu || result=1
            moves=$((moves + 1))
            # Not every move is waited for: most follow each other as fast as they go.
            if [ $((round % 4)) = 0 ] || [ $round = $rounds ]; then
                until_true 20 took_more $irq $cpu "$before" || result=1
                arrivals=$((arrivals + 1))
            fi
        done
    done
    load_end
    DETAIL="irqs=$(echo $irqs | tr ' ' ,) moves=$moves arrivals=$arrivals"
    return $result
}

# Unbinds drivers from their devices under load and binds them again: every MSI of the devices is
# discarded and mapped anew.
rebind() {
    load_begin
    result=0
    cycles=0
    for round in $(seq 1 $ROUNDS); do
        for driver in virtio_rng virtio_blk; do
            directory=/sys/bus/virtio/drivers/$driver
            for device in "$directory"/virtio*; do
                device=${device##*/}
                echo "$device" >$directory/unbind || result=1
                echo "$device" >$directory/bind || result=1
                cycles=$((cycles + 1))
            done
        done
    done
    load_end
    dd if=/dev/hwrng of=/dev/null bs=512 count=8 2>/dev/null || result=1
    sum=$(disk_sum msi)
    [ "$sum" = "$BLK_SUM" ] || result=1
    DETAIL="cycles=$cycles sum=$sum"
    return $result
}

# idles STATE: how often all vCPUs have entered an idle state of the device tree.
idles() {
    grep -l "^$1\$" /sys/devices/system/cpu/cpu*/cpuidle/state*/name | sed 's/name$/usage/' |
        xargs -r cat | awk '{ n += $1 } END { print n + 0 }'
}

# Looks how idle vCPUs have passed their time: the kernel suspends them by PSCI, in standby for short
# pauses and in power-down for long ones, and devices, timers and other vCPUs wake them.
idle() {
    [ -d /sys/firmware/devicetree/base/cpus/idle-states ] || return 2
    sleep 1
    standby=$(idles standby)
    down=$(idles power-down)
    DETAIL="standby=$standby power_down=$down"
    [ $standby -gt 0 ] && [ $down -gt 0 ]
}

# Looks that the kernel was started by UEFI firmware and found the interrupt controller by ACPI.
firmware() {
    [ "$FIRMWARE" = 1 ] || return 2
    [ -d /sys/firmware/efi ] && [ -f /sys/firmware/acpi/tables/APIC ] &&
        [ -f /sys/firmware/acpi/tables/IORT ]
}

# Suspends the machine to RAM, from which the alarm of the real-time clock wakes it.
suspend() {
    rtc=/sys/class/rtc/rtc0
    # The clock of the firmware has no alarm, and a VM with a part of the machine has no clock.
    grep -qs pl031 $rtc/name && grep -q deep /sys/power/mem_sleep || return 2
    before=$(cat /sys/power/suspend_stats/success)
    began=$(cat $rtc/since_epoch)
    echo +3 >$rtc/wakealarm && echo mem >/sys/power/state
    result=$?
    slept=$(($(cat $rtc/since_epoch) - began))
    times=$(($(cat /sys/power/suspend_stats/success) - before))
    DETAIL="seconds=$slept suspends=$times"
    [ $result = 0 ] && [ $times = 1 ] && [ $slept -ge 3 ]
}

# Prints the kernel's counts since its start, by kind of interrupt, in one line. All counts come
# from one read of /proc/stat, which includes CPUs that are off line. Its total also includes
# interrupts whose descriptor is gone: MSIs of drivers that were unbound, which are LPIs with an ITS
# and SPIs with a GICv2m frame. /proc/interrupts tells the kind of each number; it does not list
# IPIs by number.
final() {
    awk -v cpus="$CPUS" '
        FILENAME == "/proc/interrupts" {
            irq = $1; sub(":", "", irq); chip = $(cpus + 2)
            # PPIs are below 32, and 1056 to 1119 in the extended range.
            intid = $(cpus + 3)
            private = intid < 32 || intid >= 1056 && intid < 1120
            if (chip ~ /^GICv2m/) { kind[irq] = "spi"; v2m = 1 }
            else if (chip ~ /^GIC/) kind[irq] = private ? "ppi" : "spi"
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
            # The kernel adds up before it lists: an interrupt may have come in between.
            if (freed < 0) freed = 0
            if (v2m) { n["spi"] += freed; freed = 0 }
            printf "@workload final sgi=%d ppi=%d spi=%d lpi=%d lpi_freed=%d other=%d\n",
                n["sgi"], n["ppi"], n["spi"], n["lpi"], freed, n["other"]
        }' /proc/interrupts /proc/stat
}

# The steps that may be done again.
work() {
    step blk blk
    step intx intx
    step net net
    step rng rng
    step smp smp
    step hotplug hotplug
    step affinity affinity
    step rebind rebind
}

echo "@workload begin cpus=$CPUS kernel=$(uname -r)"
interrupts before
step firmware firmware
step uart uart
step dma dma
work
now
while [ $NOW -lt $((${LEAST_SECONDS:-0} * 1000)) ]; do
    work
    now
done
step idle idle
step suspend suspend
interrupts after
# Interrupts in flight arrive first, so that the last count misses as few as possible.
sleep 1
echo "@workload sampling"
final
