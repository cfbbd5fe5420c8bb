//! Values of labels, as types.

macro_rules! closed_label {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            /// The label's value.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

closed_label! {
    /// How a job ended.
    JobEnd {
        /// With its images.
        Completed = "completed",
        /// Without images, permanently.
        Failed = "failed",
        /// Its deadline passed.
        Expired = "expired",
        /// It was cancelled.
        Cancelled = "cancelled",
    }
}

closed_label! {
    /// What became of a job, as the service's objectives count it.
    JobOutcome {
        /// It has its images.
        Completed = "completed",
        /// It failed for what its client sent.
        Refused = "refused",
        /// It failed by a fault of the installation.
        Failed = "failed",
        /// Its deadline passed.
        Expired = "expired",
        /// It was cancelled.
        Cancelled = "cancelled",
        /// A task of it became a dead letter, so it has not ended; if it is sent again, its end is recorded as well.
        Parked = "parked",
    }
}

closed_label! {
    /// The outcome of a task.
    TaskEnd {
        /// Its work is done.
        Done = "done",
        /// Its job failed permanently.
        Failed = "failed",
        /// It is retried later.
        Retried = "retried",
        /// It was parked.
        DeadLettered = "dead_lettered",
        /// It was requeued.
        Requeued = "requeued",
        /// Its job had ended elsewhere.
        Ended = "ended",
    }
}

closed_label! {
    /// The cache's response.
    CacheAnswer {
        /// The value.
        Hit = "hit",
        /// No value.
        Miss = "miss",
        /// An error.
        Error = "error",
    }
}

closed_label! {
    /// A call to the object store.
    StoreCall {
        /// Reads.
        Get = "get",
        /// Writes.
        Put = "put",
        /// Writes only if absent.
        PutIfAbsent = "put_if_absent",
        /// Checks whether it exists.
        Exists = "exists",
        /// Deletes.
        Delete = "delete",
        /// Lists keys.
        List = "list",
    }
}

closed_label! {
    /// Its outcome.
    StoreAnswer {
        /// It succeeded.
        Ok = "ok",
        /// It may succeed later.
        Transient = "transient",
        /// It failed permanently.
        Permanent = "permanent",
    }
}

closed_label! {
    /// What came of a check by the content gate.
    GateAnswer {
        /// The content may be used.
        Allowed = "allowed",
        /// It must not be used.
        Withheld = "withheld",
        /// There is no verdict, and it is used.
        Open = "open",
        /// There is no verdict, and it is not used.
        Closed = "closed",
    }
}

closed_label! {
    /// What became of a preview.
    PreviewEnd {
        /// It is in the cache.
        Made = "made",
        /// It was left out.
        Dropped = "dropped",
    }
}

closed_label! {
    /// A way in which the end of a job is made known.
    NoticeName {
        /// To the subscribers of events.
        Event = "event",
        /// To the client's reply queue.
        Reply = "reply",
        /// To the client's own server.
        Callback = "callback",
    }
}

closed_label! {
    /// The outcome of an attempt to send a notice.
    NoticeEnd {
        /// It is delivered.
        Sent = "sent",
        /// It is sent again later.
        Retried = "retried",
        /// It is given up.
        Lost = "lost",
    }
}
