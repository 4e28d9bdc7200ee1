//! The command line: names and defaults that scripts rely on.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::UpFlags;

/// Where an instance lives when nobody says otherwise.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/monopod";

/// A complete Pod platform in one program.
#[derive(Debug, Parser)]
#[command(name = "monopod", version, about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server and a node in the foreground; TERM leaves the Pods running
    Up(Box<UpFlags>),
    /// Stop every Pod of this instance and remove all it made
    Down {
        #[command(flatten)]
        instance: Instance,
        /// Remove the data directory too
        #[arg(long)]
        purge: bool,
    },
    /// What runs and what is wrong, in one screen
    Status {
        #[command(flatten)]
        instance: Instance,
        /// Output format
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// What happened to a Pod, as a picture over time; also of one that has gone
    Timeline(TimelineFlags),
    /// Write the cluster's data to one file; the instance may run meanwhile
    Backup {
        #[command(flatten)]
        instance: Instance,
        /// The file to write; - for standard output
        file: PathBuf,
    },
    /// Make the data of an instance that has none from a backup
    Restore {
        #[command(flatten)]
        instance: Instance,
        /// The backup; - for standard input
        file: PathBuf,
    },
    /// Keep what is whole of a damaged store, and say what is not
    Repair {
        #[command(flatten)]
        instance: Instance,
    },
    /// Write what somebody needs to help from afar to one archive, without secrets
    SupportBundle {
        #[command(flatten)]
        instance: Instance,
        /// The file to write; - for standard output
        #[arg(default_value = "monopod-support.tar")]
        file: PathBuf,
    },
    /// What this host lacks, and what to do about it
    Doctor {
        #[command(flatten)]
        instance: Instance,
    },
    /// The images of this node
    Image {
        #[command(flatten)]
        instance: Instance,
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Print the kubeconfig of this instance's administrator, or make one for somebody else
    Kubeconfig {
        #[command(flatten)]
        instance: Instance,
        #[command(flatten)]
        other: KubeconfigFlags,
    },
    /// Make this program a service of the host and start it
    Install(InstallFlags),
    /// Take the service, its Pods, its data and this program away
    Uninstall(UninstallFlags),
    /// Print a completion script
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

/// For whom a kubeconfig is made; without a user it is the administrator's own.
#[derive(Debug, Args)]
pub(crate) struct KubeconfigFlags {
    /// Who is to have access; what he may do is said by RoleBindings
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// A group of the user (may be repeated, twice at most)
    #[arg(long, value_name = "NAME", requires = "user")]
    pub(crate) group: Vec<String>,
    /// How long it is good: 90m, 12h, 30d
    #[arg(long, value_name = "TIME", requires = "user", default_value = "30d")]
    pub(crate) expires: String,
    /// HOST or HOST:PORT that the user reaches the API at [default: as the administrator does]
    #[arg(long, value_name = "HOST", requires = "user")]
    pub(crate) server: Option<String>,
}

/// How the service is made.
#[derive(Debug, Args)]
pub(crate) struct InstallFlags {
    #[command(flatten)]
    pub(crate) instance: Instance,
    /// Where the file system is that it is installed to; another than / is not started
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,
    /// Do not start it now
    #[arg(long)]
    pub(crate) no_start: bool,
    /// Flags of `up` for the service, after --
    #[arg(last = true, value_name = "FLAGS")]
    pub(crate) up: Vec<String>,
}

/// What of the service is taken away.
#[derive(Debug, Args)]
pub(crate) struct UninstallFlags {
    #[command(flatten)]
    pub(crate) instance: Instance,
    /// Where the file system is that it was installed to
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,
    /// Leave the data directory
    #[arg(long)]
    pub(crate) keep_data: bool,
}

/// Whose timeline, and how.
#[derive(Debug, Args)]
pub(crate) struct TimelineFlags {
    #[command(flatten)]
    pub(crate) instance: Instance,
    /// Name of the Pod
    pub(crate) pod: String,
    /// Namespace of the Pod
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    /// Which of several Pods of this name; otherwise the latest
    #[arg(long)]
    pub(crate) uid: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Picture::Text)]
    pub(crate) output: Picture,
}

/// How a timeline is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Picture {
    /// A line for each thing
    Text,
    /// For programs
    Json,
    /// A picture for a browser
    Svg,
}

/// Which instance a command is about.
#[derive(Debug, Args)]
pub(crate) struct Instance {
    /// Data directory; it names the instance
    #[arg(long, global = true, default_value = DEFAULT_DATA_DIR)]
    pub(crate) data_dir: PathBuf,
}

/// How a listing is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Pull an image from its registry
    Pull {
        /// As in a manifest: busybox, nginx:1.27, registry.example.com/a/b@sha256:…
        reference: String,
        /// User of the registry; the password is read from MONOPOD_REGISTRY_PASSWORD
        #[arg(long)]
        username: Option<String>,
        /// Where to ask instead of a registry: NAME=URL
        #[arg(long, value_name = "NAME=URL")]
        registry_mirror: Vec<String>,
        /// Registry to speak plain HTTP with
        #[arg(long, value_name = "HOST")]
        insecure_registry: Vec<String>,
    },
    /// Import the images of an archive (docker-archive or OCI, also compressed)
    Import {
        /// The archive; - for standard input
        file: PathBuf,
    },
    /// List the images
    Ls {
        /// Output format
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Remove images
    Rm {
        /// Names or ids
        #[arg(required = true)]
        references: Vec<String>,
    },
    /// Remove the images that no container uses
    Prune,
    /// Give an image another name
    Tag {
        /// Name or id
        source: String,
        /// The other name
        target: String,
    },
    /// Write images as one archive, which docker load and podman load take too
    Save {
        /// Names or ids
        #[arg(required = true)]
        references: Vec<String>,
        /// The file to write [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Write an image as an OCI archive
    Export {
        /// Name or id
        reference: String,
        /// The file to write; - for standard output
        file: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
