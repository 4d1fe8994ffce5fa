//! The networks whose layers are built in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! architectures {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal $(or $alias:literal)*;)*) => {
        /// Where a network's layers come from.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Architecture {
            $(
                $(#[doc = $doc])*
                #[serde(rename = $name $(, alias = $alias)*)]
                $variant,
            )*
        }

        impl Architecture {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word for it in cards and texts.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }

        impl FromStr for Architecture {
            type Err = UnknownArchitecture;

            fn from_str(text: &str) -> Result<Self, UnknownArchitecture> {
                match text {
                    $($name $(| $alias)* => Ok(Self::$variant),)*
                    _ => Err(UnknownArchitecture(text.to_owned())),
                }
            }
        }
    };
}

// torchvision's and timm's own spelling, with `_`, is taken as well.
architectures! {
    /// AlexNet, as torchvision has it.
    Alexnet = "alexnet";
    /// The small network for CIFAR-10: three convolutions of 3×3 and two dense layers.
    Cifar10Cnn = "cifar10-cnn";
    /// DenseNet-121.
    Densenet121 = "densenet121";
    /// DenseNet-161.
    Densenet161 = "densenet161";
    /// DenseNet-169.
    Densenet169 = "densenet169";
    /// DenseNet-201.
    Densenet201 = "densenet201";
    /// EfficientNet-B0, as torchvision has it.
    EfficientnetB0 = "efficientnet-b0" or "efficientnet_b0";
    /// EfficientNet-B1.
    EfficientnetB1 = "efficientnet-b1" or "efficientnet_b1";
    /// EfficientNet-B2.
    EfficientnetB2 = "efficientnet-b2" or "efficientnet_b2";
    /// EfficientNet-B3.
    EfficientnetB3 = "efficientnet-b3" or "efficientnet_b3";
    /// EfficientNet-B4.
    EfficientnetB4 = "efficientnet-b4" or "efficientnet_b4";
    /// EfficientNet-B5.
    EfficientnetB5 = "efficientnet-b5" or "efficientnet_b5";
    /// EfficientNet-B6.
    EfficientnetB6 = "efficientnet-b6" or "efficientnet_b6";
    /// EfficientNet-B7.
    EfficientnetB7 = "efficientnet-b7" or "efficientnet_b7";
    /// EfficientNet-Lite0, the quickest here: its normalisations are folded into its convolutions.
    EfficientnetLite0 = "efficientnet-lite0" or "efficientnet_lite0";
    /// FCN-32s over VGG-19: segments, with a head on the last pooling.
    Fcn32sVgg19 = "fcn32s-vgg19";
    /// Inception v3, as torchvision has it, without the auxiliary head.
    InceptionV3 = "inception-v3" or "inception_v3";
    /// MobileNet v2.
    MobilenetV2 = "mobilenet-v2" or "mobilenet_v2";
    /// ResNet-18.
    Resnet18 = "resnet18";
    /// ResNet-34.
    Resnet34 = "resnet34";
    /// ResNet-50.
    Resnet50 = "resnet50";
    /// ResNet-101.
    Resnet101 = "resnet101";
    /// ResNet-152.
    Resnet152 = "resnet152";
    /// SqueezeNet 1.0.
    Squeezenet10 = "squeezenet1-0" or "squeezenet1_0";
    /// SqueezeNet 1.1.
    Squeezenet11 = "squeezenet1-1" or "squeezenet1_1";
    /// VGG-11.
    Vgg11 = "vgg11";
    /// VGG-11 with batch normalisation.
    Vgg11Bn = "vgg11-bn" or "vgg11_bn";
    /// VGG-13.
    Vgg13 = "vgg13";
    /// VGG-13 with batch normalisation.
    Vgg13Bn = "vgg13-bn" or "vgg13_bn";
    /// VGG-16.
    Vgg16 = "vgg16";
    /// VGG-16 with batch normalisation.
    Vgg16Bn = "vgg16-bn" or "vgg16_bn";
    /// VGG-19.
    Vgg19 = "vgg19";
    /// VGG-19 with batch normalisation.
    Vgg19Bn = "vgg19-bn" or "vgg19_bn";
    /// The file is TorchScript and brings layers and weights.
    Torchscript = "torchscript";
}

/// No architecture has that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no architecture is called {0:?}; there are {list}", list = Architecture::list())]
pub struct UnknownArchitecture(String);

impl Architecture {
    /// Says by its ending whether a file can hold this network: TorchScript may be called anything.
    pub fn takes(self, file: &str) -> bool {
        let is_state_dict = || [".pt", ".pth", ".bin"].iter().any(|ending| file.ends_with(ending));
        match self {
            Self::Torchscript => true,
            Self::EfficientnetLite0 => file.ends_with(".safetensors"),
            _ => file.ends_with(".safetensors") || is_state_dict(),
        }
    }

    fn list() -> String {
        Self::ALL.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_torchvision_or_we_spell_it() {
        for &one in Architecture::ALL {
            assert_eq!(one.as_str().parse(), Ok(one));
            assert_eq!(serde_json::to_value(one).unwrap(), one.as_str());
        }
        assert_eq!("vgg16_bn".parse(), Ok(Architecture::Vgg16Bn));
        assert!("resnet19".parse::<Architecture>().unwrap_err().to_string().contains("resnet18, resnet34"));
    }

    #[test]
    fn weights_are_told_from_programs_by_their_ending() {
        assert!(Architecture::Resnet18.takes("weights.pth"));
        assert!(!Architecture::Resnet18.takes("weights.onnx"));
        assert!(Architecture::Torchscript.takes("network.pt"));
    }
}
