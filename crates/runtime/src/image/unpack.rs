//! A layer's tar becomes a directory that overlayfs can take as a lower one.
//!
//! Layers come from strangers. Every path is resolved by the kernel with the layer's
//! directory as the root (`openat2`, `RESOLVE_IN_ROOT`), so neither `..` nor an absolute
//! path nor a symbolic link made by an earlier entry leads out of it, and new files are
//! made with `O_EXCL | O_NOFOLLOW` below an open directory. `..` is refused before that:
//! no honest layer has it.
//!
//! Whiteouts are translated: `.wh.NAME` becomes a character device 0:0, `.wh..wh..opq`
//! the attribute `trusted.overlay.opaque` of its directory. They speak of the layers below
//! only, so within a layer the order of a whiteout and its namesake does not matter.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self as sysfs, AtFlags, FileType, Mode, OFlags, StatVfs, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use sys::beneath::{Directory, Links, Mounts};
use tar::{Entry, EntryType};

use super::digest::{Digest, Hashing};
use super::entries;
use super::error::ImageError;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other marks of AUFS, of no use to overlayfs.
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";
const COPY_BUFFER: usize = 128 << 10;

/// How much one layer or archive may bring.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Files, directories and links of a layer.
    pub entries: u64,
    /// Bytes of all files of a layer.
    pub bytes: u64,
    /// Files of an archive of images.
    pub archive_entries: usize,
}

impl Default for Limits {
    /// Far above any honest image (the largest known have some 10^6 files and 10^11 bytes).
    fn default() -> Self {
        Limits { entries: 4_000_000, bytes: 256 << 30, archive_entries: 100_000 }
    }
}

/// Unpacks the layer that `source` holds, compressed or not, into the empty directory `into`.
/// Returns the bytes of its files. What is in `into` after an error is the caller's to remove.
pub(crate) fn unpack(
    source: impl Read,
    diff_id: &Digest,
    into: &Path,
    limits: &Limits,
) -> Result<u64, ImageError> {
    let plain = decompress(source).map_err(ImageError::io("read layer for", into))?;
    let mut hashed = Hashing::new(plain, diff_id.hasher());
    let root = sysfs::open(into, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(ImageError::io("open", into))?;
    let mut unpacker = Unpacker {
        root: Directory::of(root, into),
        into: into.to_owned(),
        layer: diff_id.clone(),
        limits: *limits,
        entries: 0,
        bytes: 0,
        parent: None,
        directory_times: HashMap::new(),
        directory_names: 0,
        since_look: SinceLook::default(),
        buffer: vec![0; COPY_BUFFER],
    };
    let malformed = |e: io::Error| broken_tar(diff_id, &e);
    entries::for_each(&mut hashed, |_, e| malformed(e), |entry| unpacker.entry(entry))?;
    unpacker.set_directory_times()?;
    let bytes = unpacker.bytes;
    // The digest covers what follows the end mark too.
    io::copy(&mut hashed, &mut io::sink()).map_err(malformed)?;
    let (actual, _) = hashed.finish();
    if actual != *diff_id {
        let what = "uncompressed layer (diff id)".to_owned();
        return Err(ImageError::Digest { what, expected: diff_id.clone(), actual });
    }
    Ok(bytes)
}

fn broken_tar(layer: &Digest, error: &io::Error) -> ImageError {
    ImageError::Malformed { what: format!("layer {layer}"), reason: error.to_string() }
}

/// Looks at the first bytes: media types are often wrong, magic numbers never.
pub(crate) fn decompress<'a>(mut source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::with_capacity(6);
    source.by_ref().take(6).read_to_end(&mut magic)?;
    let kind = Compression::of(&magic);
    let whole = io::BufReader::with_capacity(COPY_BUFFER, io::Cursor::new(magic).chain(source));
    Ok(match kind {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(whole)?),
        Compression::Foreign(name) => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("compressed with {name}; only gzip and zstd are supported"),
            ));
        }
    })
}

/// How a stream is compressed, by its magic number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    Foreign(&'static str),
}

impl Compression {
    pub(crate) fn of(magic: &[u8]) -> Self {
        match magic {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Foreign("xz"),
            [b'B', b'Z', b'h', ..] => Compression::Foreign("bzip2"),
            _ => Compression::None,
        }
    }
}

struct Unpacker {
    root: Directory,
    into: PathBuf,
    layer: Digest,
    limits: Limits,
    entries: u64,
    bytes: u64,
    /// The directory of the entry before: neighbours in a tar are neighbours in the tree.
    parent: Option<(PathBuf, Directory)>,
    /// Set last: making files in a directory changes its time.
    directory_times: HashMap<PathBuf, Timespec>,
    /// Bytes of their names.
    directory_names: usize,
    since_look: SinceLook,
    buffer: Vec<u8>,
}

/// What came in since the free space was looked at.
#[derive(Default)]
struct SinceLook {
    bytes: u64,
    entries: u64,
}

/// Names of directories are kept up to so many bytes; then their times are set before the end, and
/// what comes into them later changes them again. No honest layer has so many.
const DIRECTORY_NAMES_MAX: usize = 32 << 20;
/// So much comes in between two looks at the free space.
const LOOK_BYTES: u64 = 16 << 20;
const LOOK_ENTRIES: u64 = 1024;
/// So much of a disk stays free, for what else lives there: the node's own state before all.
const RESERVE_PART: u64 = 20;
const RESERVE_BYTES_MAX: u64 = 512 << 20;
const RESERVE_FILES_MAX: u64 = 10_000;

/// Whether a file of this length, or just another entry, leaves the reserve of the disk untouched.
fn fits(disk: &StatVfs, length: u64) -> bool {
    let reserve = (disk.f_blocks.saturating_mul(disk.f_frsize) / RESERVE_PART).min(RESERVE_BYTES_MAX);
    let bytes = disk.f_bavail.saturating_mul(disk.f_frsize) >= length.saturating_add(reserve);
    // A file system without a number has no limit.
    let files = disk.f_files == 0 || disk.f_favail > (disk.f_files / RESERVE_PART).min(RESERVE_FILES_MAX);
    bytes && files
}

/// What a tar header says of an entry, apart from its kind.
struct Attributes {
    mode: Mode,
    uid: u32,
    gid: u32,
    modified: Timespec,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Unpacker {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), ImageError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            let limit = format!("{} entries", self.limits.entries);
            return Err(ImageError::TooLarge { what: format!("layer {}", self.layer), limit });
        }
        let kind = entry.header().entry_type();
        let is_file = matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse);
        self.make_room(if is_file { entry.size() } else { 0 })?;
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let raw = entry.path_bytes().into_owned();
        let path = self.clean(&raw)?;
        let attributes = attributes(entry).map_err(|e| broken_tar(&self.layer, &e))?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return self.root_entry(&attributes);
        };
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(&path, &name);
        }
        self.make(entry, kind, raw.ends_with(b"/"), &path, &name, &attributes)
    }

    /// Refuses what the disk cannot hold before it is written: a file of which the archive has
    /// little more than its length, or one more of very many.
    fn make_room(&mut self, length: u64) -> Result<(), ImageError> {
        let since = &mut self.since_look;
        (since.bytes, since.entries) = (since.bytes.saturating_add(length), since.entries + 1);
        if since.bytes < LOOK_BYTES && since.entries < LOOK_ENTRIES {
            return Ok(());
        }
        *since = SinceLook::default();
        let disk = sysfs::fstatvfs(&self.root).map_err(self.failed("look at", Path::new("")))?;
        if fits(&disk, length) {
            return Ok(());
        }
        Err(ImageError::NoSpace { layer: self.layer.clone(), path: self.into.clone() })
    }

    fn make(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        kind: EntryType,
        slash: bool,
        path: &Path,
        name: &OsStr,
        attributes: &Attributes,
    ) -> Result<(), ImageError> {
        self.open_parent(path)?;
        match kind {
            EntryType::Directory => self.directory(path, name, attributes),
            // Before POSIX a directory was a file whose name ends in a slash.
            EntryType::Regular if slash => self.directory(path, name, attributes),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(entry, path, name, attributes)
            }
            EntryType::Symlink => {
                let target = self.link_target(entry, path)?;
                self.symlink(&target, path, name, attributes)
            }
            EntryType::Link => {
                let target = self.link_target(entry, path)?;
                self.hard_link(&target, path, name)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let node = node_of(entry, kind).map_err(|e| broken_tar(&self.layer, &e))?;
                self.node(node, path, name, attributes)
            }
            // As Docker: kinds that mean nothing here are passed over.
            other => {
                tracing::debug!(path = %path.display(), kind = ?other, "unknown kind of entry in a layer");
                Ok(())
            }
        }
    }

    fn link_target(&self, entry: &Entry<'_, impl Read>, path: &Path) -> Result<OsString, ImageError> {
        match entry.link_name_bytes() {
            Some(bytes) if !bytes.is_empty() && !bytes.contains(&0) => {
                Ok(OsString::from_vec(bytes.into_owned()))
            }
            _ => Err(self.hostile(path, "link without a target")),
        }
    }

    /// The path below the root, without `.` and slashes around.
    fn clean(&self, raw: &[u8]) -> Result<PathBuf, ImageError> {
        let path = Path::new(OsStr::from_bytes(raw));
        if raw.contains(&0) {
            return Err(self.hostile(path, "path contains a null byte"));
        }
        let mut clean = PathBuf::new();
        for component in path.components() {
            match component {
                Component::Normal(part) => clean.push(part),
                Component::ParentDir => return Err(self.hostile(path, "path contains \"..\"")),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(clean)
    }

    fn hostile(&self, path: &Path, reason: &'static str) -> ImageError {
        ImageError::HostileEntry { entry: path.display().to_string(), layer: self.layer.clone(), reason }
    }

    fn failed(&self, action: &'static str, path: &Path) -> impl FnOnce(Errno) -> ImageError + use<> {
        ImageError::io(action, &self.into.join(path))
    }

    /// Opens a directory of the layer with the layer as its root.
    fn open_in_root(&self, path: &Path) -> Result<Directory, Errno> {
        let place = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = self.root.lookup(place, flags, Links::Inside, Mounts::Stay)?;
        Ok(Directory::of(opened, self.into.join(path)))
    }

    /// Makes `self.parent` the open directory of `path`; missing ones are made as Docker makes them.
    fn open_parent(&mut self, path: &Path) -> Result<(), ImageError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if self.parent.as_ref().is_some_and(|(known, _)| known == parent) {
            return Ok(());
        }
        let opened = match self.open_in_root(parent) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => self.make_directories(parent)?,
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(self.hostile(path, "parent is not a directory")),
            Err(errno) => return Err(self.failed("open", parent)(errno)),
        };
        self.parent = Some((parent.to_owned(), opened));
        Ok(())
    }

    fn make_directories(&self, path: &Path) -> Result<Directory, ImageError> {
        let mut prefix = PathBuf::new();
        let mut directory = self.open_in_root(&prefix).map_err(self.failed("open", &prefix))?;
        for component in path.components() {
            prefix.push(component);
            directory = match self.open_in_root(&prefix) {
                Ok(opened) => opened,
                Err(Errno::NOENT) => self.make_directory(&directory, component.as_os_str(), &prefix)?,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Err(self.hostile(path, "parent is not a directory"));
                }
                Err(errno) => return Err(self.failed("open", &prefix)(errno)),
            };
        }
        Ok(directory)
    }

    fn make_directory(&self, at: &Directory, name: &OsStr, path: &Path) -> Result<Directory, ImageError> {
        match sysfs::mkdirat(at, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            // A link that leads nowhere: going through it would write where nothing is.
            Err(Errno::EXIST) => return Err(self.hostile(path, "parent is a dangling link")),
            Err(errno) => return Err(self.failed("make directory", path)(errno)),
        }
        let made = self.open_in_root(path).map_err(self.failed("open", path))?;
        sysfs::fchmod(&made, Mode::from_raw_mode(0o755)).map_err(self.failed("set mode of", path))?;
        Ok(made)
    }

    /// The open parent. `open_parent` came before.
    fn at(&self) -> &Directory {
        match &self.parent {
            Some((_, directory)) => directory,
            None => &self.root,
        }
    }

    fn root_entry(&mut self, attributes: &Attributes) -> Result<(), ImageError> {
        let root = self.open_in_root(Path::new("")).map_err(self.failed("open", Path::new("")))?;
        self.dress(&root, attributes, Path::new(""))?;
        self.keep_time(Path::new(""), attributes.modified)
    }

    /// Clears the way for a new entry. Returns whether the layer hides what is below of that name.
    fn replace(&mut self, path: &Path, name: &OsStr) -> Result<Hidden, ImageError> {
        let stat = match sysfs::statat(self.at(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Hidden::No),
            Err(errno) => return Err(self.failed("look at", path)(errno)),
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            self.at().remove(name).map_err(|error| self.failed("replace", path)(error.errno))?;
            return Ok(Hidden::No);
        }
        sysfs::unlinkat(self.at(), name, AtFlags::empty()).map_err(self.failed("replace", path))?;
        let is_whiteout =
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0;
        Ok(if is_whiteout { Hidden::Yes } else { Hidden::No })
    }

    fn directory(&mut self, path: &Path, name: &OsStr, attributes: &Attributes) -> Result<(), ImageError> {
        let existing = sysfs::statat(self.at(), name, AtFlags::SYMLINK_NOFOLLOW);
        let is_directory = existing.is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
        let mut hidden = Hidden::No;
        if !is_directory {
            hidden = self.replace(path, name)?;
            sysfs::mkdirat(self.at(), name, Mode::RWXU).map_err(self.failed("make directory", path))?;
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = sysfs::openat(self.at(), name, flags, Mode::empty()).map_err(self.failed("open", path))?;
        self.dress(&made, attributes, path)?;
        if hidden == Hidden::Yes {
            self.make_opaque(&made, path)?;
        }
        self.keep_time(path, attributes.modified)
    }

    fn keep_time(&mut self, path: &Path, modified: Timespec) -> Result<(), ImageError> {
        if self.directory_names > DIRECTORY_NAMES_MAX {
            self.set_directory_times()?;
        }
        self.directory_names += path.as_os_str().len();
        self.directory_times.insert(path.to_owned(), modified);
        Ok(())
    }

    fn make_opaque(&self, directory: &impl AsFd, path: &Path) -> Result<(), ImageError> {
        sysfs::fsetxattr(directory, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty())
            .map_err(self.failed("make opaque", path))
    }

    fn file(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        path: &Path,
        name: &OsStr,
        attributes: &Attributes,
    ) -> Result<(), ImageError> {
        self.replace(path, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = sysfs::openat(self.at(), name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(self.failed("make file", path))?;
        let mut file = File::from(made);
        self.copy(entry, &mut file, path)?;
        let made = OwnedFd::from(file);
        self.dress(&made, attributes, path)?;
        sysfs::futimens(&made, &times(attributes.modified)).map_err(self.failed("set time of", path))
    }

    fn copy(&mut self, from: &mut impl Read, to: &mut File, path: &Path) -> Result<(), ImageError> {
        loop {
            let n = from.read(&mut self.buffer).map_err(|e| broken_tar(&self.layer, &e))?;
            if n == 0 {
                return Ok(());
            }
            self.bytes += n as u64;
            if self.bytes > self.limits.bytes {
                let limit = format!("{} bytes", self.limits.bytes);
                return Err(ImageError::TooLarge { what: format!("layer {}", self.layer), limit });
            }
            to.write_all(&self.buffer[..n]).map_err(|error| match error.kind() {
                io::ErrorKind::StorageFull => {
                    ImageError::NoSpace { layer: self.layer.clone(), path: self.into.join(path) }
                }
                _ => ImageError::io("write", &self.into.join(path))(error),
            })?;
        }
    }

    fn symlink(
        &mut self,
        target: &OsStr,
        path: &Path,
        name: &OsStr,
        attributes: &Attributes,
    ) -> Result<(), ImageError> {
        self.replace(path, name)?;
        sysfs::symlinkat(target, self.at(), name).map_err(self.failed("make link", path))?;
        self.dress_unopened(path, name, attributes)
    }

    fn hard_link(&mut self, target: &OsStr, path: &Path, name: &OsStr) -> Result<(), ImageError> {
        let source = self.clean(target.as_bytes())?;
        let Some(source_name) = source.file_name() else {
            return Err(self.hostile(path, "hard link to a directory"));
        };
        let directory = match self.open_in_root(source.parent().unwrap_or(Path::new(""))) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                return Err(self.hostile(path, "hard link to what is not in the layer"));
            }
            Err(errno) => return Err(self.failed("open", &source)(errno)),
        };
        if source == path {
            return Ok(());
        }
        self.replace(path, name)?;
        match sysfs::linkat(&directory, source_name, self.at(), name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(self.hostile(path, "hard link to what is not in the layer")),
            Err(Errno::PERM) => Err(self.hostile(path, "hard link to a directory")),
            Err(errno) => Err(self.failed("link", path)(errno)),
        }
    }

    fn node(
        &mut self,
        node: Node,
        path: &Path,
        name: &OsStr,
        attributes: &Attributes,
    ) -> Result<(), ImageError> {
        self.replace(path, name)?;
        let mode = Mode::from_raw_mode(0o600);
        sysfs::mknodat(self.at(), name, node.kind, mode, node.device)
            .map_err(self.failed("make device", path))?;
        self.dress_unopened(path, name, attributes)?;
        // No link stands here: it was made a moment ago in a directory nobody else can enter.
        sysfs::chmodat(self.at(), name, attributes.mode, AtFlags::empty())
            .map_err(self.failed("set mode of", path))
    }

    fn whiteout(&mut self, path: &Path, name: &OsStr) -> Result<(), ImageError> {
        self.open_parent(path)?;
        let name = name.as_bytes();
        if name == OPAQUE {
            let parent = path.parent().unwrap_or(Path::new(""));
            return self.make_opaque(self.at(), parent);
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        let hidden = OsStr::from_bytes(&name[WHITEOUT.len()..]);
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(self.hostile(path, "whiteout of nothing"));
        }
        match sysfs::mknodat(self.at(), hidden, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => self.hide_below(path, hidden),
            Err(errno) => Err(self.failed("make whiteout", path)(errno)),
        }
    }

    /// The layer has an entry of that name itself: a file hides what is below anyway,
    /// a directory must not merge with it.
    fn hide_below(&self, path: &Path, name: &OsStr) -> Result<(), ImageError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match sysfs::openat(self.at(), name, flags, Mode::empty()) {
            Ok(directory) => self.make_opaque(&directory, path),
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(errno) => Err(self.failed("open", path)(errno)),
        }
    }

    /// Owner, mode and attributes of an open file. The order matters: a change of owner
    /// clears set-user-id bits and capabilities.
    fn dress(&self, file: &impl AsFd, attributes: &Attributes, path: &Path) -> Result<(), ImageError> {
        sysfs::fchown(file, Some(uid(attributes)), Some(gid(attributes)))
            .map_err(self.failed("set owner of", path))?;
        sysfs::fchmod(file, attributes.mode).map_err(self.failed("set mode of", path))?;
        for (name, value) in &attributes.xattrs {
            match sysfs::fsetxattr(file, name.as_str(), value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(self.failed("set attribute of", path)(errno)),
            }
        }
        Ok(())
    }

    /// Owner and time of what cannot be opened: links and devices.
    fn dress_unopened(&self, path: &Path, name: &OsStr, attributes: &Attributes) -> Result<(), ImageError> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        sysfs::chownat(self.at(), name, Some(uid(attributes)), Some(gid(attributes)), nofollow)
            .map_err(self.failed("set owner of", path))?;
        sysfs::utimensat(self.at(), name, &times(attributes.modified), nofollow)
            .map_err(self.failed("set time of", path))
    }

    fn set_directory_times(&mut self) -> Result<(), ImageError> {
        self.directory_names = 0;
        for (path, modified) in &std::mem::take(&mut self.directory_times) {
            match self.open_in_root(path) {
                Ok(directory) => {
                    sysfs::futimens(&directory, &times(*modified))
                        .map_err(self.failed("set time of", path))?;
                }
                // Replaced by a later entry.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(self.failed("open", path)(errno)),
            }
        }
        Ok(())
    }
}

/// Whether a whiteout stood where an entry was made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hidden {
    Yes,
    No,
}

struct Node {
    kind: FileType,
    device: u64,
}

fn node_of(entry: &Entry<'_, impl Read>, kind: EntryType) -> io::Result<Node> {
    let header = entry.header();
    let device = || -> io::Result<u64> {
        let major = header.device_major()?.unwrap_or(0);
        Ok(sysfs::makedev(major, header.device_minor()?.unwrap_or(0)))
    };
    Ok(match kind {
        EntryType::Char => Node { kind: FileType::CharacterDevice, device: device()? },
        EntryType::Block => Node { kind: FileType::BlockDevice, device: device()? },
        _ => Node { kind: FileType::Fifo, device: 0 },
    })
}

fn attributes(entry: &mut Entry<'_, impl Read>) -> io::Result<Attributes> {
    let header = entry.header();
    let raw = header.as_old();
    let mode = if is_blank(&raw.mode) { 0 } else { header.mode()? };
    let modified = if is_blank(&raw.mtime) { 0 } else { header.mtime()? };
    let mut attributes = Attributes {
        mode: Mode::from_raw_mode(mode & 0o7777),
        uid: if is_blank(&raw.uid) { 0 } else { id(header.uid()?)? },
        gid: if is_blank(&raw.gid) { 0 } else { id(header.gid()?)? },
        modified: Timespec { tv_sec: i64::try_from(modified).unwrap_or(0), tv_nsec: 0 },
        xattrs: Vec::new(),
    };
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            apply_extension(&mut attributes, extension.key_bytes(), extension.value_bytes());
        }
    }
    Ok(attributes)
}

/// A number that was never written is 0, as Go's reader has it.
fn is_blank(field: &[u8]) -> bool {
    field.iter().all(|b| matches!(b, 0 | b' '))
}

fn id(number: u64) -> io::Result<u32> {
    // 2^32 - 1 means "leave it" to chown.
    u32::try_from(number)
        .ok()
        .filter(|n| *n != u32::MAX)
        .ok_or_else(|| io::Error::other("owner out of range"))
}

fn apply_extension(attributes: &mut Attributes, key: &[u8], value: &[u8]) {
    let text = std::str::from_utf8(value).unwrap_or_default();
    match key {
        b"uid" => attributes.uid = text.parse().unwrap_or(attributes.uid),
        b"gid" => attributes.gid = text.parse().unwrap_or(attributes.gid),
        b"mtime" => attributes.modified = parse_time(text).unwrap_or(attributes.modified),
        _ => {
            let name = key.strip_prefix(b"SCHILY.xattr.").and_then(|n| std::str::from_utf8(n).ok());
            if let Some(name) = name.filter(|n| is_kept(n)) {
                attributes.xattrs.push((name.to_owned(), value.to_owned()));
            }
        }
    }
}

/// `trusted.overlay.*` of a stranger could redirect a lookup; the rest of `trusted.` and
/// `security.` speaks of another machine's labels.
fn is_kept(name: &str) -> bool {
    name.starts_with("user.") || name == "security.capability"
}

/// Seconds since 1970 with a fraction, as in a PAX header.
fn parse_time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some(Timespec { tv_sec: seconds.parse().ok()?, tv_nsec: digits.parse().ok()? })
}

fn times(modified: Timespec) -> Timestamps {
    Timestamps { last_access: modified, last_modification: modified }
}

fn uid(attributes: &Attributes) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(attributes.uid)
}

fn gid(attributes: &Attributes) -> rustix::fs::Gid {
    rustix::fs::Gid::from_raw(attributes.gid)
}
