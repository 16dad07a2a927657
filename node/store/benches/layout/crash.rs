//! SIGKILL in the middle of writing: a child of this very program writes, the parent kills it and
//! measures how long it takes until the first chunk can be read again, and what is lost.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rust_rocksdb::WriteBatch;

use crate::Result;
use crate::instruments::child::{Teller, tell};
use crate::load::Check;
use crate::machine;
use crate::material::Material;
use crate::plan::Plan;
use crate::report::Crash;
use crate::store::{self, Cursor, Shape};

/// The child must have filled the store within this, and gives up by itself after as long again.
const PATIENCE: Duration = Duration::from_secs(40);
/// The child tells how far it is after so many chunks.
const TELL_EVERY: u64 = 8;

/// The child's part: puts chunks and prints how many, until it is killed.
pub(crate) fn fill_until_killed(plan: &Plan) -> Result<()> {
    let (&[layout], &[value]) = (plan.layouts.as_slice(), plan.values.as_slice()) else {
        return Err("a child writes to one layout with one value size".into());
    };
    let material = Material::new(plan.capacity);
    let (mut cursor, mut batch) = (Cursor::default(), WriteBatch::default());
    let begun = Instant::now();
    store::with(&plan.dir, Shape::new(plan, layout, value), false, |store| {
        while begun.elapsed() < 2 * PATIENCE {
            store.put(&material, &mut cursor, &mut batch)?;
            if cursor.next.is_multiple_of(TELL_EVERY) {
                tell(cursor.next)?;
            }
        }
        Err("nobody killed this child".into())
    })
}

/// The parent's part.
pub(crate) fn measure(plan: &Plan, material: &Material, path: &Path, shape: Shape) -> Result<Crash> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--child-fill").arg(path);
    command.args(["--capacity-mib", &(shape.capacity >> 20).to_string()]);
    command.args(["--layout", shape.layout.name(), "--value-kib", &(shape.value >> 10).to_string()]);
    if plan.direct_writes {
        command.arg("--direct-writes");
    }
    // Once it has put a quarter more than the capacity, at any moment.
    let full = material.capacity + material.capacity / 4;
    let moment = Duration::from_millis(fastrand::u64(..200));
    let put = Teller::start(&mut command)?.kill_at(full, PATIENCE, moment)?;

    // As after a power cut, nothing is in the page cache.
    let cold = machine::drop_page_cache(path)?;
    let begun = Instant::now();
    store::with(path, shape, false, |store| {
        let open = begun.elapsed();
        if !store.holds(&material.key(put - material.capacity / 2))? {
            return Err("the first chunk asked for after a crash is gone, though long written".into());
        }
        let first = begun.elapsed();

        // Memtables hold three tenths of the capacity at most, so all that was lost is in the newer
        // half, and all that is missing there was lost.
        let (mut lost, mut wrong, mut damaged) = (0, 0, 0);
        let options = store.read_options();
        for chunk in put - material.capacity..put {
            let mut check = Check::new(material, chunk);
            match store.read(&material.key(chunk), &options, |part, value| check.all(part, value)) {
                Ok(true) => wrong += u64::from(check.right().is_err()),
                Ok(false) => lost += u64::from(chunk >= put - material.capacity / 2),
                Err(_) => damaged += 1,
            }
        }
        Ok(Crash {
            cold,
            open_ms: open.as_secs_f64() * 1e3,
            first_read_ms: first.as_secs_f64() * 1e3,
            lost_mib: lost,
            damaged_chunks: damaged,
            wrong_chunks: wrong,
        })
    })
}
