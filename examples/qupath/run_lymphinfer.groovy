/*
 * Runs LymphInfer on the open image, or inside its selected annotations, and imports the nuclei.
 *
 * Change: `lymphinfer` below, the full path of the program. The other settings may stay.
 * Runs in: the script editor (Run), the menu of install_menu.groovy, and without a window on every
 * image of a project: QuPath script -s -p PROJECT.qpproj run_lymphinfer.groovy
 * (without -s and a project QuPath keeps no nuclei).
 * For QuPath 0.5 to 0.7. See README.md.
 */
import com.google.gson.Gson
import qupath.fx.dialogs.Dialogs
import qupath.lib.common.ColorTools
import qupath.lib.common.GeneralTools
import qupath.lib.io.PathIO
import qupath.lib.objects.classes.PathClass
import qupath.lib.projects.Projects

import static qupath.lib.gui.scripting.QPEx.*

// ---- Settings ------------------------------------------------------------------------------

// The command; QuPath does not see a virtual environment that a terminal has activated, so name the
// program in it, such as '/home/me/lymphinfer/bin/lymphinfer' or 'C:\\lymphinfer\\Scripts\\lymphinfer.exe'.
String lymphinfer = 'lymphinfer'

// Name or folder of a bundle. null: the default
String bundle = null

// Of a file with several images: the number or name of the open one, as `lymphinfer info` lists
// them. null: the largest scan
String series = null

// Further options of `lymphinfer predict`, such as ['--device', 'cuda', '--operating-point', 'precise'].
List<String> options = []

// Only inside the selected annotations; the whole image where none is selected.
boolean onlySelection = true

// Pass QuPath's pixel size on, for an image whose file has none or a wrong one.
boolean usePixelSizeOfQuPath = false

// Take away the nuclei of an earlier run (inside the selected annotations, where there are some).
// null: ask; without a window they stay, and nothing is run.
Boolean replace = null

// ---- Work ----------------------------------------------------------------------------------

def imageData = getCurrentImageData()
if (imageData == null) {
    refuse('Open an image first.')
    return
}
def server = imageData.getServer()
def uris = server.getURIs()
def slide = uris.collect { GeneralTools.toPath(it) }.find { it != null }?.toFile()
if (slide == null || !slide.exists()) {
    refuse("The open image is no file of this computer (${uris.join(', ')}), and LymphInfer reads files. " +
            'Copy it here and open the copy.')
    return
}
def hierarchy = imageData.getHierarchy()
def annotations = onlySelection ? getSelectedObjects().findAll { it.isAnnotation() && it.getROI().isArea() } : []
def old = hierarchy.getDetectionObjects().findAll { isOfLymphInfer(it) && isInside(it, annotations) }
if (old && replace == null && getQuPath() != null)
    replace = Dialogs.showYesNoDialog('LymphInfer', "${old.size()} nuclei of an earlier run are here. Replace them?".toString())
if (old && !replace) {
    println "${old.size()} nuclei of an earlier run stay; nothing was run. replace = true takes them away."
    return
}

// PROJECT_BASE_DIR is a text that only an open project can resolve.
def base = getProject() == null ? slide.getParentFile() : Projects.getBaseDirectory(getProject())
def out = new File(base, annotations ? 'lymphinfer-selection' : 'lymphinfer')
out.mkdirs()
def command = [lymphinfer, 'predict', slide.getPath(), '--out', out.getPath()]
if (bundle != null)
    command += ['--bundle', bundle]
if (series != null)
    command += ['--series', series]
if (usePixelSizeOfQuPath)
    command += ['--mpp', server.getPixelCalibration().getAveragedPixelSizeMicrons().toString()]
if (annotations) {
    def roi = new File(out, slide.getName() + '.selection.geojson').getPath()
    exportObjectsToGeoJson(annotations, roi, 'FEATURE_COLLECTION', 'EXCLUDE_MEASUREMENTS')
    command += ['--roi', roi]
}
command += options
println command.join(' ')

def (code, lines, log) = runCommand(command.collect { it.toString() })
if (code == null) {
    refuse("Cannot start ${lymphinfer} (${log.join(' ')}). Set the full path of the program at the top of this script.")
    return
}
// The one thing on its standard output is the file for QuPath.
if (code != 0 || lines.isEmpty()) {
    refuse("lymphinfer ended with code ${code}; nothing was imported. Its last words:\n\n${log.takeRight(12).join('\n')}")
    return
}
def file = new File(lines[-1].trim())
def summary = new Gson().fromJson(new File(file.getParentFile(), 'summary.json').getText('UTF-8'), Map)
if (!isOf(summary, server)) {
    refuse("LymphInfer read ${sizeOf(summary)} px, QuPath shows ${server.getWidth()} x ${server.getHeight()}: another " +
            'image of the file (set `series`), or one that QuPath has turned or cropped. Nothing was imported.')
    return
}
setColors(summary)
def nuclei = PathIO.readObjects(file)
hierarchy.removeObjects(old, true)
hierarchy.addObjects(nuclei)
println "${nuclei.size()} nuclei from ${file}"

/** Say why nothing was done: in a window, or, where there is none, as the error that ends the script. */
void refuse(CharSequence words) {
    if (getQuPath() == null)
        throw new RuntimeException(words.toString())
    println words
    Dialogs.showErrorMessage('LymphInfer', words.toString())
}

/** Run a command and show its log as it comes: exit code, standard output, log; no code if it cannot start. */
List runCommand(List<String> command) {
    def lines = Collections.synchronizedList([])
    def log = Collections.synchronizedList([])
    def builder = new ProcessBuilder(command)
    // Python on Windows writes other letters than UTF-8 unless it is told to.
    builder.environment().put('PYTHONUTF8', '1')
    def process
    try {
        process = builder.start()
    } catch (IOException e) {
        return [null, lines, [e.message]]
    }
    process.getOutputStream().close()
    def readers = [
        Thread.start { process.getInputStream().eachLine('UTF-8') { if (!it.isBlank()) lines << it } },
        Thread.start { process.getErrorStream().eachLine('UTF-8') { log << it; println it } }
    ]
    try {
        int code = process.waitFor()
        readers.each { it.join() }
        return [code, lines, log]
    } finally {
        // A script that is killed takes LymphInfer with it.
        process.destroy()
    }
}

/** Whether an earlier import has brought a nucleus; StarDist's own have no marker. */
boolean isOfLymphInfer(nucleus) {
    def values = nucleus.getMeasurementList()
    return !Double.isNaN(values.get('Detection probability')) && !Double.isNaN(values.get('CD45 probability'))
}

/** Whether a nucleus has its centre in one of the annotations; true without any. */
boolean isInside(nucleus, List annotations) {
    def place = nucleus.getROI()
    return !annotations || annotations.any { it.getROI().contains(place.getCentroidX(), place.getCentroidY()) }
}

String sizeOf(summary) {
    return summary.slide.dimensions.collect { it as int }.join(' x ')
}

/** Whether a result is of the image that QuPath shows; of a slide with bounds QuPath shows a part. */
boolean isOf(summary, server) {
    def size = summary.slide.dimensions.collect { it as int }
    def corner = summary.slide.bounds_offset.collect { it as int }
    def shown = [server.getWidth(), server.getHeight()]
    return shown == size || (corner != [0, 0] && (0..1).every { corner[it] + shown[it] <= size[it] })
}

/** Give the classes the colours of the panel, parents first: QuPath makes up those of a class it has not met. */
void setColors(summary) {
    summary.calls.sort { it.key.count(':') }.each { name, row ->
        if (row.color != null)
            PathClass.fromString(name).setColor(ColorTools.packRGB(*row.color.collect { it as int }))
    }
}
