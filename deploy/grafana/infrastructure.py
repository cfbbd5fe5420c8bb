"""The dashboards of what EchoGen runs on: RabbitMQ, Redis, and the devices of the samplers.

Their metrics are those of RabbitMQ's plugin `prometheus`, of redis_exporter and of NVIDIA's DCGM exporter; deploy/tests/metrics
lists them, and the tests fail if a panel queries another.
"""

from panels import INSTALLATION, dashboard, lines, number, quantiles, red_above, red_below, target

RATE = "[$__rate_interval]"
# Of one device; the exporter numbers those of a machine.
DEVICE = "{{instance}} GPU {{gpu}}"


def per_second(metric, by="", matchers=""):
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({metric}{matchers}{RATE}))"


def rabbitmq():
    message = "rabbitmq_global_messages"
    delivered = " + ".join(per_second(f"{message}_delivered_{how}_manual_ack_total") for how in ("consume", "get"))
    queues = f"max by ({INSTALLATION}, stage, lane) (echogen_queue_messages)"
    alarms = "max(rabbitmq_alarms_memory_used_watermark) + max(rabbitmq_alarms_free_disk_space_watermark)"
    lettered = [
        target(per_second(f"{message}_dead_lettered_{reason}_total"), legend)
        for reason, legend in (("delivery_limit", "delivery limit"), ("rejected", "rejected"), ("maxlen", "queue full"))
    ]
    return dashboard(
        "rabbitmq",
        "RabbitMQ",
        "The broker: whether it takes messages, how many wait, and what its nodes have left.",
        [
            number("Nodes", "count(rabbitmq_build_info)", thresholds=red_below(1), decimals=0),
            number(
                "Alarms",
                alarms,
                thresholds=red_above(1),
                decimals=0,
                help_text="Of memory and disk, on any node. While there is one, nobody can publish to any.",
            ),
            number("Waiting messages", "sum(rabbitmq_queue_messages_ready)", decimals=0),
            number(
                "Messages in hand",
                "sum(rabbitmq_queue_messages_unacked)",
                decimals=0,
                help_text="Delivered, and not acknowledged yet.",
            ),
            number("Connections", "sum(rabbitmq_connections)", decimals=0),
            number("Consumers", "sum(rabbitmq_consumers)", thresholds=red_below(1), decimals=0),
            lines(
                "Messages in the queues",
                target("sum(rabbitmq_queue_messages_ready)", "waiting"),
                target("sum(rabbitmq_queue_messages_unacked)", "in hand"),
                stacked=True,
                min=0,
            ),
            lines(
                "Waiting messages by stage and lane",
                target(f"sum by (stage, lane) ({queues})", "{{stage}} {{lane}}"),
                min=0,
                help_text="As the roles see them; the plugin adds all queues up.",
            ),
            lines(
                "Messages per second",
                target(per_second(f"{message}_received_total"), "published"),
                target(delivered, "delivered"),
                target(per_second(f"{message}_acknowledged_total"), "acknowledged"),
                target(per_second(f"{message}_redelivered_total"), "delivered again"),
                unit="ops",
                min=0,
                help_text="More delivered than acknowledged for long: tasks are requeued, or processes die with them.",
            ),
            lines(
                "Confirms and returns",
                target(per_second(f"{message}_received_confirm_total"), "to confirm"),
                target(per_second(f"{message}_confirmed_total"), "confirmed"),
                target(per_second(f"{message}_unroutable_returned_total"), "returned as unroutable"),
                unit="ops",
                min=0,
                help_text="Fewer confirmed than to confirm: a node is slow, or queues have no majority.",
            ),
            lines("Dead letters by reason", *lettered, unit="ops", min=0, help_text="Stages reject what they park."),
            lines(
                "Memory before the alarm",
                target("rabbitmq_process_resident_memory_bytes / rabbitmq_resident_memory_limit_bytes", "{{instance}}"),
                unit="percentunit",
                min=0,
                help_text="At 1 the node blocks all who publish.",
            ),
            lines(
                "Disk space above the alarm",
                target("rabbitmq_disk_space_available_bytes - rabbitmq_disk_space_available_limit_bytes", "{{instance}}"),
                unit="bytes",
                help_text="At 0 the node blocks all who publish.",
            ),
            lines(
                "Connections and channels",
                target("rabbitmq_connections", "{{instance}} connections"),
                target("rabbitmq_channels", "{{instance}} channels"),
                min=0,
            ),
            lines(
                "Opened and closed",
                target(per_second("rabbitmq_connections_opened_total"), "connections opened"),
                target(per_second("rabbitmq_connections_closed_total"), "connections closed"),
                target(per_second("rabbitmq_channels_opened_total"), "channels opened"),
                unit="ops",
                min=0,
                width=8,
                help_text="Roles keep theirs: many per second are a client that opens one for each job.",
            ),
            lines(
                "Commit latency of quorum queues",
                target("max by (instance) (rabbitmq_raft_max_commit_latency_seconds)", "{{instance}}, slowest queue"),
                target("max by (instance) (rabbitmq_raft_entry_commit_latency_seconds)", "{{instance}}, before 4.2"),
                unit="s",
                min=0,
                width=8,
                help_text="Until a majority has written a message. It grows with slow disks and slow networks between nodes.",
            ),
            lines(
                "Logs of quorum queues",
                target("max by (instance) (rabbitmq_raft_max_num_segments)", "{{instance}}, segments of the largest"),
                target(
                    "max by (instance) (rabbitmq_raft_log_last_written_index - rabbitmq_raft_log_snapshot_index)",
                    "{{instance}}, entries since the snapshot, before 4.2",
                ),
                min=0,
                width=8,
                help_text="One that only grows has a message at its head that nobody acknowledges.",
            ),
        ],
        known_by="rabbitmq_build_info",
    )


def redis():
    hits, misses = (per_second(f"redis_keyspace_{each}_total") for each in ("hits", "misses"))
    found = f"{hits} / ({hits} + {misses})"
    asked = "echogen_cache_requests_total"
    ours = per_second(asked, "kind", '{result="hit"}') + " / " + per_second(asked, "kind")
    commands = per_second("redis_commands_total", "cmd")
    seconds = per_second("redis_commands_duration_seconds_total", "cmd")
    return dashboard(
        "redis",
        "Redis",
        "The cache: whether it has room, what it finds, and which commands are slow.",
        [
            number("Up", "min(redis_up)", thresholds=red_below(1), decimals=0),
            number(
                "Memory used",
                "max(redis_memory_used_bytes / (redis_memory_max_bytes > 0))",
                unit="percentunit",
                help_text="Of maxmemory. A full cache with an eviction policy is well; without one it takes nothing more.",
            ),
            number("Keys found", found, unit="percentunit"),
            number("Evicted keys per second", per_second("redis_evicted_keys_total"), decimals=1),
            number("Clients", "sum(redis_connected_clients)", decimals=0),
            number(
                "Slow commands kept",
                "max(redis_slowlog_length)",
                decimals=0,
                help_text="`redis-cli slowlog get` shows them.",
            ),
            lines(
                "Memory",
                target("redis_memory_used_bytes", "{{instance}} used"),
                target("redis_memory_used_rss_bytes", "{{instance}} of the process"),
                target("redis_memory_max_bytes", "{{instance}} maxmemory"),
                unit="bytes",
                min=0,
            ),
            lines(
                "Found",
                target(found, "all keys"),
                target(ours, "{{kind}}, as the roles count"),
                unit="percentunit",
                min=0,
                max=1,
            ),
            lines(
                "Keys that go",
                target(per_second("redis_evicted_keys_total"), "evicted"),
                target(per_second("redis_expired_keys_total"), "expired"),
                unit="ops",
                min=0,
                help_text="Evicted ones were thrown out for want of memory, before their time.",
            ),
            lines("Keys", target("sum by (db) (redis_db_keys) > 0", "{{db}}"), min=0),
            lines("Commands per second", target(commands, "{{cmd}}"), unit="ops", stacked=True, min=0),
            lines(
                "Duration of a command, mean",
                target(f"{seconds} / ({commands} > 0)", "{{cmd}}"),
                unit="s",
                min=0,
                help_text="Redis does one after the other: a slow one delays all.",
            ),
            lines(
                "Slow commands per second",
                target(per_second("redis_slowlog_last_id", "instance"), "{{instance}}"),
                unit="ops",
                min=0,
                width=8,
                help_text="Above slowlog-log-slower-than, 10 ms by default.",
            ),
            lines(
                "Clients",
                target("redis_connected_clients", "{{instance}} connected"),
                target("redis_blocked_clients", "{{instance}} blocked"),
                min=0,
                width=8,
            ),
            lines(
                "Refused",
                target(per_second("redis_rejected_connections_total"), "connections"),
                target(per_second("redis_commands_rejected_calls_total", "cmd") + " > 0", "{{cmd}}"),
                target(per_second(asked, "kind", '{result="error"}'), "{{kind}}, as the roles count"),
                unit="ops",
                min=0,
                width=8,
            ),
        ],
        known_by="redis_up",
    )


def devices():
    used = "DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)"
    # Microseconds in some versions of the exporter and nanoseconds in others; that there are any is the same in all.
    limited = [
        target(f"max by (instance, gpu) (rate(DCGM_FI_DEV_{field}_VIOLATION{RATE}) > bool 0)", f"{DEVICE} {why}")
        for field, why in (("POWER", "power"), ("THERMAL", "heat"))
    ]
    return dashboard(
        "devices",
        "Devices",
        "The GPUs of the samplers: whether they are busy, and whether they are well. On a CPU only the samplers' panels show data.",
        [
            number("GPUs", "count(DCGM_FI_DEV_GPU_UTIL)", decimals=0),
            number("Busy, mean", "avg(DCGM_FI_DEV_GPU_UTIL) / 100", unit="percentunit"),
            number("Fullest memory", f"max({used})", unit="percentunit", thresholds=red_above(0.95, 0.99)),
            number("Hottest", "max(DCGM_FI_DEV_GPU_TEMP)", unit="celsius", thresholds=red_above(80, 88), decimals=0),
            number(
                "GPUs with an Xid",
                "count(DCGM_FI_DEV_XID_ERRORS > 0) or vector(0)",
                thresholds=red_above(1),
                decimals=0,
                help_text="Faults that the driver has reported; 48, 63, 64, 74, 79, 94 and 95 are of the hardware.",
            ),
            number(
                "Faults that ended a process",
                "sum(increase(echogen_device_faults_total[1h]))",
                thresholds=red_above(1),
                decimals=0,
            ),
            lines("Busy", target("DCGM_FI_DEV_GPU_UTIL / 100", DEVICE), unit="percentunit", min=0, max=1),
            lines(
                "Time spent sampling",
                target(per_second("echogen_scale_seconds_sum", "instance"), "{{instance}}"),
                unit="percentunit",
                min=0,
                help_text="As the samplers count. Far above what the device calls busy: the CPU is what they wait for.",
            ),
            lines("Memory in use", target("DCGM_FI_DEV_FB_USED * 1048576", DEVICE), unit="bytes", min=0),
            lines(
                "Memory of key-value caches",
                target("echogen_kv_cache_bytes", "{{instance}}"),
                unit="bytes",
                min=0,
                help_text="What batches in progress may take; weights and the rest come on top.",
            ),
            lines("Power", target("DCGM_FI_DEV_POWER_USAGE", DEVICE), unit="watt", min=0),
            lines(
                "Images per kilojoule",
                target(per_second("echogen_batch_size_sum") + " / sum(DCGM_FI_DEV_POWER_USAGE) * 1000", "images"),
                min=0,
                help_text="Of all samplers and all GPUs of the installation.",
            ),
            lines(
                "Temperature",
                target("DCGM_FI_DEV_GPU_TEMP", DEVICE),
                target("DCGM_FI_DEV_MEMORY_TEMP", f"{DEVICE} memory"),
                unit="celsius",
                width=8,
            ),
            lines(
                "Clock of the multiprocessors",
                target("DCGM_FI_DEV_SM_CLOCK * 1000000", DEVICE),
                unit="hertz",
                min=0,
                width=8,
            ),
            lines(
                "Throttled",
                *limited,
                min=0,
                max=1,
                width=8,
                help_text="1 while the device lowers its clock for want of power or for heat. Needs two more fields: dcgm-counters.csv.",
            ),
            lines("Last Xid", target("DCGM_FI_DEV_XID_ERRORS", DEVICE), min=0, help_text="0 if there was none."),
            lines(
                "Duration of each scale, p95",
                *quantiles("echogen_scale_seconds", ["instance"], legend="{{instance}}", shares=(0.95,)),
                unit="s",
                min=0,
                help_text="A sampler far above the others has a throttled or a failing device.",
            ),
        ],
    )
