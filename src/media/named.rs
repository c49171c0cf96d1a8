//! What a file's name tells about its type.

/// A document's type by its name, in any case; `None`: the name has no known extension.
///
/// The last extension of the last path part counts, and a name without dots and slashes is an extension itself. Known are
/// those of npm's `mime` 3.0.0, which the original asks, with its types, and some more.
pub fn document_mime(name: &str) -> Option<String> {
    mimes(name).next().map(str::to_owned)
}

/// The types that go by this name, the original's first.
pub(super) fn mimes(name: &str) -> impl Iterator<Item = &'static str> + use<> {
    let extension = extension(name);
    let listed = extension.as_deref().and_then(listed);
    let guessed = extension.and_then(|extension| mime_guess::from_ext(&extension).first_raw());
    listed.into_iter().chain(guessed)
}

fn extension(name: &str) -> Option<String> {
    let dotted = format!("x.{name}");
    let last = dotted.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let (stem, extension) = last.rsplit_once('.')?;
    (!stem.is_empty() && !extension.is_empty()).then(|| extension.to_ascii_lowercase())
}

fn listed(extension: &str) -> Option<&'static str> {
    let known = |extensions: &str| extensions.split(' ').any(|known| known == extension);
    LISTED.iter().find(|(_, extensions)| known(extensions)).map(|(mime, _)| *mime)
}

/// Where the original names another type, or knows more, than `mime_guess`: a type and its extensions.
const LISTED: &[(&str, &str)] = &[
    ("application/atomdeleted+xml", "atomdeleted"),
    ("application/atsc-dwd+xml", "dwd"),
    ("application/atsc-held+xml", "held"),
    ("application/atsc-rsat+xml", "rsat"),
    ("application/calendar+xml", "xcs"),
    ("application/cdfx+xml", "cdfx"),
    ("application/ecmascript", "ecma es"),
    ("application/emotionml+xml", "emotionml"),
    ("application/express", "exp"),
    ("application/fdt+xml", "fdt"),
    ("application/its+xml", "its"),
    ("application/java-vm", "class"),
    ("application/javascript", "js"),
    ("application/json", "map"),
    ("application/lgr+xml", "lgr"),
    ("application/mmt-aei+xml", "maei"),
    ("application/mmt-usd+xml", "musd"),
    ("application/mp4", "m4p"),
    ("application/node", "cjs"),
    ("application/octet-stream", "dll"),
    ("application/p2p-overlay+xml", "relo"),
    ("application/pkix-cert", "cer"),
    ("application/pls+xml", "pls"),
    ("application/provenance+xml", "provx"),
    ("application/rdf+xml", "owl"),
    ("application/rls-services+xml", "rs"),
    ("application/route-apd+xml", "rapd"),
    ("application/route-s-tsid+xml", "sls"),
    ("application/route-usd+xml", "rusd"),
    ("application/senml+xml", "senmlx"),
    ("application/sensml+xml", "sensmlx"),
    ("application/sieve", "sieve siv"),
    ("application/smil+xml", "smi"),
    ("application/swid+xml", "swidtag"),
    ("application/toml", "toml"),
    ("application/ttml+xml", "ttml"),
    ("application/ubjson", "ubj"),
    ("application/urc-ressheet+xml", "rsheet"),
    ("application/urc-targetdesc+xml", "td"),
    ("application/vnd.1000minds.decision-model+xml", "1km"),
    ("application/vnd.apple.keynote", "key"),
    ("application/vnd.apple.mpegurl", "m3u8"),
    ("application/vnd.apple.numbers", "numbers"),
    ("application/vnd.apple.pages", "pages"),
    ("application/vnd.balsamiq.bmml+xml", "bmml"),
    ("application/vnd.ctc-posml", "pml"),
    ("application/vnd.dbf", "dbf"),
    ("application/vnd.dvb.service", "svc"),
    ("application/vnd.koan", "skp"),
    ("application/vnd.mapbox-vector-tile", "mvt"),
    ("application/vnd.ms-cab-compressed", "cab"),
    ("application/vnd.ms-excel.addin.macroenabled.12", "xlam"),
    ("application/vnd.ms-excel.sheet.binary.macroenabled.12", "xlsb"),
    ("application/vnd.ms-excel.sheet.macroenabled.12", "xlsm"),
    ("application/vnd.ms-excel.template.macroenabled.12", "xltm"),
    ("application/vnd.ms-powerpoint.addin.macroenabled.12", "ppam"),
    ("application/vnd.ms-powerpoint.presentation.macroenabled.12", "pptm"),
    ("application/vnd.ms-powerpoint.slide.macroenabled.12", "sldm"),
    ("application/vnd.ms-powerpoint.slideshow.macroenabled.12", "ppsm"),
    ("application/vnd.ms-powerpoint.template.macroenabled.12", "potm"),
    ("application/vnd.ms-word.document.macroenabled.12", "docm"),
    ("application/vnd.ms-word.template.macroenabled.12", "dotm"),
    ("application/vnd.openblox.game+xml", "obgx"),
    ("application/vnd.openstreetmap.data+xml", "osm"),
    ("application/vnd.quark.quarkxpress", "qxd"),
    ("application/vnd.rar", "rar"),
    ("application/vnd.rim.cod", "cod"),
    ("application/vnd.smaf", "mmf"),
    ("application/vnd.software602.filler.form+xml", "fo"),
    ("application/vnd.syncml.dmddf+xml", "ddf"),
    ("application/wsdl+xml", "wsdl"),
    ("application/x-authorware-bin", "u32"),
    ("application/x-conference", "nsc"),
    ("application/x-envoy", "evy"),
    ("application/x-font-type1", "afm pfb pfm"),
    ("application/x-futuresplash", "spl"),
    ("application/x-keepass2", "kdbx"),
    ("application/x-lzh-compressed", "lzh"),
    ("application/x-msmetafile", "emz"),
    ("application/x-netcdf", "cdf"),
    ("application/x-redhat-package-manager", "rpm"),
    ("application/x-sea", "sea"),
    ("application/xcap-att+xml", "xav"),
    ("application/xcap-caps+xml", "xca"),
    ("application/xcap-el+xml", "xel"),
    ("application/xcap-ns+xml", "xns"),
    ("application/xliff+xml", "xlf"),
    ("application/xml", "xml xsd xsl"),
    ("application/xml-dtd", "dtd"),
    ("application/xslt+xml", "xslt"),
    ("audio/adpcm", "adp"),
    ("audio/amr", "amr"),
    ("audio/midi", "mid midi rmi"),
    ("audio/mobile-xmf", "mxmf"),
    ("audio/mp4", "m4a"),
    ("audio/x-aac", "aac"),
    ("audio/x-aiff", "aif aifc aiff"),
    ("audio/x-flac", "flac"),
    ("audio/x-pn-realaudio-plugin", "rmp"),
    ("font/otf", "otf"),
    ("font/woff", "woff"),
    ("image/aces", "exr"),
    ("image/dicom-rle", "drle"),
    ("image/emf", "emf"),
    ("image/fits", "fits"),
    ("image/hej2k", "hej2"),
    ("image/hsj2", "hsj2"),
    ("image/jls", "jls"),
    ("image/jph", "jph"),
    ("image/jphc", "jhc"),
    ("image/jxr", "jxr"),
    ("image/jxra", "jxra"),
    ("image/jxrs", "jxrs"),
    ("image/jxs", "jxs"),
    ("image/jxsc", "jxsc"),
    ("image/jxsi", "jxsi"),
    ("image/jxss", "jxss"),
    ("image/ktx2", "ktx2"),
    ("image/prs.pti", "pti"),
    ("image/t38", "t38"),
    ("image/tiff-fx", "tfx"),
    ("image/vnd.adobe.photoshop", "psd"),
    ("image/vnd.airzip.accelerator.azv", "azv"),
    ("image/vnd.dwg", "dwg"),
    ("image/vnd.dxf", "dxf"),
    ("image/vnd.microsoft.icon", "ico"),
    ("image/vnd.ms-dds", "dds"),
    ("image/vnd.pco.b16", "b16"),
    ("image/vnd.tencent.tap", "tap"),
    ("image/vnd.valve.source.texture", "vtf"),
    ("image/vnd.zbrush.pcx", "pcx"),
    ("image/wmf", "wmf"),
    ("image/x-pict", "pct pic"),
    ("message/vnd.wfa.wsc", "wsc"),
    ("model/3mf", "3mf"),
    ("model/mtl", "mtl"),
    ("model/obj", "obj"),
    ("model/step+xml", "stpx"),
    ("model/step+zip", "stpz"),
    ("model/step-xml+zip", "stpxz"),
    ("model/stl", "stl"),
    ("model/vnd.dwf", "dwf"),
    ("model/vnd.mts", "mts"),
    ("model/vnd.opengex", "ogex"),
    ("model/vnd.parasolid.transmit.binary", "x_b"),
    ("model/vnd.parasolid.transmit.text", "x_t"),
    ("model/vnd.sap.vds", "vds"),
    ("model/vnd.usdz+zip", "usdz"),
    ("model/vnd.valve.source.compiled-map", "bsp"),
    ("model/vrml", "wrl"),
    ("model/x3d+fastinfoset", "x3db"),
    ("model/x3d-vrml", "x3dv"),
    ("text/cache-manifest", "manifest"),
    ("text/jsx", "jsx"),
    ("text/mdx", "mdx"),
    ("text/spdx", "spdx"),
    ("text/troff", "man me ms roff t tr"),
    ("text/x-asm", "asm s"),
    ("text/x-c", "c cc cpp cxx h hh"),
    ("text/x-java-source", "java"),
    ("text/x-vcalendar", "vcs"),
    ("text/yaml", "yaml yml"),
    ("video/iso.segment", "m4s"),
    ("video/mp2t", "ts"),
    // Beyond the original: family trees.
    ("text/vnd.familysearch.gedcom", "ged"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_typed_by_its_last_extension() {
        for (name, mime) in [
            ("report.pdf", Some("application/pdf")),
            ("REPORT.PDF", Some("application/pdf")),
            ("pdf", Some("application/pdf")),
            (".pdf", Some("application/pdf")),
            ("a.tar.gz", Some("application/gzip")),
            ("a.exe.pdf", Some("application/pdf")),
            ("../a/b.docx", Some("application/vnd.openxmlformats-officedocument.wordprocessingml.document")),
            ("table.xlsx", Some("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet")),
            ("text.txt", Some("text/plain")),
            ("song.mp3", Some("audio/mpeg")),
            ("page.html", Some("text/html")),
            ("a.pdf/", Some("application/pdf")),
            ("report", None),
            ("report.", None),
            ("report.nosuchextension", None),
            ("a.pdf/b", None),
            ("a/pdf", None),
            ("a/.pdf", None),
            ("laporan.pages", Some("application/vnd.apple.pages")),
            ("family.ged", Some("text/vnd.familysearch.gedcom")),
            ("clip.mts", Some("model/vnd.mts")),
            ("", None),
            (".", None),
            ("/", None),
        ] {
            assert_eq!(document_mime(name).as_deref(), mime, "{name:?}");
        }
    }

    #[test]
    fn every_extension_that_the_original_knows_has_its_type() {
        // Each line: a type, and the extensions that npm's `mime` 3.0.0 gives it to.
        let mut seen = 0;
        for line in include_str!("named/mime-3.0.0.txt").lines() {
            let mut words = line.split(' ');
            let mime = words.next().unwrap();
            for extension in words {
                assert_eq!(document_mime(&format!("a.{extension}")).as_deref(), Some(mime), "{extension}");
                seen += 1;
            }
        }
        assert_eq!(seen, 1173);
    }

    #[test]
    fn a_film_may_have_the_name_of_something_else() {
        assert_eq!(mimes("clip.mts").collect::<Vec<_>>(), ["model/vnd.mts", "video/vnd.dlna.mpeg-tts"]);
    }
}
