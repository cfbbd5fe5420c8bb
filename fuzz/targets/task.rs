//! Messages between stages, events and results: read, written and read again.

use echogen_protocol::{
    EncodeTask, JobEvent, JobResult, NotifyTask, Parameters, PerScale, Progress, SampleTask, Seeds, SegmentTask,
    Segmentation, StageTask, SubjectArea, SubjectKeys, check_object_key,
    json::{self, Bounds},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::message;

pub(crate) fn run(data: &[u8]) {
    task::<SegmentTask>(data);
    task::<EncodeTask>(data);
    if let Some(task) = task::<SampleTask>(data) {
        assert!(check_object_key(&task.encoded_subject).is_ok());
    }
    if let Some(task) = task::<NotifyTask>(data) {
        assert!(check_object_key(&task.event.subject.result_key(None)).is_ok());
    }
    value::<JobEvent>(data);
    value::<JobResult>(data);
    value::<Parameters>(data);
    value::<Progress>(data);
    value::<Segmentation>(data);
    value::<SubjectArea>(data);
    value::<SubjectKeys>(data);
    value::<Seeds>(data);
    value::<PerScale>(data);
}

fn task<T: StageTask>(data: &[u8]) -> Option<T> {
    let task = message::check(T::parse(data))?;
    assert_eq!(T::parse(&task.to_json()).as_ref(), Ok(&task), "a task read back is the task");
    Some(task)
}

fn value<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let Some(value) = message::check(json::read::<T>(data, &Bounds::MESSAGE)) else { return };
    let written = serde_json::to_vec(&value).unwrap_or_default();
    assert_eq!(json::read::<T>(&written, &Bounds::MESSAGE).as_ref(), Ok(&value), "what is read back is the same");
}
