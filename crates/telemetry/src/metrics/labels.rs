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
        /// Without.
        Failed = "failed",
        /// Past its deadline.
        Expired = "expired",
        /// Taken back.
        Cancelled = "cancelled",
    }
}

closed_label! {
    /// What became of a task.
    TaskEnd {
        /// Its work is done.
        Done = "done",
        /// Its job failed for good.
        Failed = "failed",
        /// It is tried again later.
        Retried = "retried",
        /// It was parked.
        DeadLettered = "dead_lettered",
        /// It is in its queue again, unsettled.
        PutBack = "put_back",
        /// Its job had ended elsewhere.
        Ended = "ended",
    }
}

closed_label! {
    /// What the cache answered.
    CacheAnswer {
        /// It has it.
        Hit = "hit",
        /// It has not.
        Miss = "miss",
        /// Nothing useful.
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
        /// Writes where nothing stands.
        PutIfAbsent = "put_if_absent",
        /// Looks.
        Exists = "exists",
        /// Removes.
        Delete = "delete",
    }
}

closed_label! {
    /// What came of it.
    StoreAnswer {
        /// It worked.
        Ok = "ok",
        /// It may work later.
        Transient = "transient",
        /// It never will.
        Permanent = "permanent",
    }
}
