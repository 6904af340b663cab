//! Filetests: one test per folder of `tests/filetests`. `docs/testing.md` explains how to write them.

use tests::filetest::{folder, folders};

macro_rules! filetests {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                folder(stringify!($name));
            }
        )*
        #[test]
        fn every_folder_has_a_test() {
            assert_eq!(folders(), [$(stringify!($name)),*], "keep the list in filetests.rs sorted");
        }
    };
}

filetests!(autodiff, hlo, infer, partition, simplify, text, verify);
