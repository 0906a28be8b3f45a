//! What a creation needs to know and a server can ask before it is told to create anything: it is started for a container, whose image is
//! looked up while containerd connects.

use std::io::{self, PipeReader, Read, Write, pipe};
use std::os::fd::AsRawFd;

use crate::error::chain;
use crate::identity::Id;
use crate::image::{Image, Question};

/// Longest answer, in bytes: labels of the largest config that is read, and some. One that is longer is asked for again.
const MAX_ANSWER: u64 = 2 << 20;

/// The look-up of a container's image by a child that was forked for it, and its answer.
#[derive(Debug)]
pub(crate) struct Ahead {
    id: Id,
    answer: PipeReader,
}

impl Ahead {
    /// Forks the child. `containerd` is the address of its gRPC socket.
    ///
    /// # Errors
    /// When the pipe or the child cannot be made.
    pub(crate) fn begin(containerd: &str, namespace: &Id, id: Id) -> io::Result<Self> {
        let (answer, mut told) = pipe()?;
        let mut keep = vec![told.as_raw_fd()];
        keep.extend(crate::logging::descriptor());
        let (containerd, namespace, of) = (containerd.to_owned(), namespace.clone(), id.clone());
        let ask = move || {
            let question = Question {
                containerd: &containerd,
                namespace: namespace.as_str(),
                id: of.as_str(),
                mounted: None,
            };
            // Told, with an end, before what was asked with is taken apart.
            let said = question.ask(move |answer| {
                let text = serde_json::to_vec(&answer.map_err(io::Error::other)?)?;
                told.write_all(&text)
            });
            said.map_err(io::Error::other).flatten().map_or_else(
                |err| {
                    tracing::debug!(error = %chain(&err), "the image is looked up once more");
                    1
                },
                |()| 0,
            )
        };
        sandbox::process::spawn(&keep, ask)?;
        Ok(Self { id, answer })
    }

    /// Whether it is container `id` whose image is looked up.
    pub(crate) fn is_of(&self, id: &Id) -> bool {
        self.id == *id
    }

    /// The descriptor on which the answer comes.
    pub(crate) fn raw(&self) -> i32 {
        self.answer.as_raw_fd()
    }

    /// The image, once it is found; none if it was not: who asks again learns why.
    pub(crate) fn image(&self) -> Option<Image> {
        let mut text = Vec::new();
        (&self.answer).take(MAX_ANSWER).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }
}
