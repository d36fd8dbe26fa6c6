/*
 * Classifies the detections and cells that are in the open image, such as StarDist's, InstanSeg's or those of
 * QuPath's cell detection: they keep their ids and outlines, and get the markers' measurements and classes.
 *
 * Change: `lymphinfer` below, the full path of the program; `setClasses`, whether their classes may change.
 * Runs in: the script editor (Run, and Run for project), the menu of install_menu.groovy, and
 *   QuPath script -s -p PROJECT.qpproj classify_nuclei.groovy
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

// The command, such as '/home/me/lymphinfer/bin/lymphinfer' or 'C:\\lymphinfer\\Scripts\\lymphinfer.exe'.
String lymphinfer = 'lymphinfer'

// Name or folder of a bundle. null: the default
String bundle = null

// Give the nuclei the classes of their calls; false: only the measurements are added.
boolean setClasses = true

// Further options of `lymphinfer predict`, such as ['--device', 'cuda'].
List<String> options = []

// ---- Work ----------------------------------------------------------------------------------

def imageData = getCurrentImageData()
if (imageData == null) {
    refuse('Open an image first.')
    return
}
def server = imageData.getServer()
def slide = server.getURIs().collect { GeneralTools.toPath(it) }.find { it != null }?.toFile()
if (slide == null || !slide.exists()) {
    refuse('The open image is no file of this computer, and LymphInfer reads files. Copy it here and open the copy.')
    return
}
def nuclei = getDetectionObjects().findAll { it.hasROI() && it.getROI().isArea() && !it.isTile() }
if (!nuclei) {
    refuse('No detections or cells are here: run StarDist, InstanSeg or cell detection first.')
    return
}
// PROJECT_BASE_DIR is a text that only an open project can resolve.
def base = getProject() == null ? slide.getParentFile() : Projects.getBaseDirectory(getProject())
def out = new File(base, 'lymphinfer-nuclei')
out.mkdirs()
def file = new File(out, slide.getName() + '.nuclei.geojson').getPath()
exportObjectsToGeoJson(nuclei, file, 'FEATURE_COLLECTION')
def command = [lymphinfer, 'predict', slide.getPath(), '--out', out.getPath(), '--nuclei', file]
if (bundle != null)
    command += ['--bundle', bundle]
command += options
println command.join(' ')

def (code, lines, log) = runCommand(command.collect { it.toString() })
if (code == null) {
    refuse("Cannot start ${lymphinfer} (${log.join(' ')}). Set the full path of the program at the top of this script.")
    return
}
if (code != 0 || lines.isEmpty()) {
    refuse("lymphinfer ended with code ${code}; nothing was classified. Its last words:\n\n${log.takeRight(12).join('\n')}")
    return
}
def result = new File(lines[-1].trim())
def summary = new Gson().fromJson(new File(result.getParentFile(), 'summary.json').getText('UTF-8'), Map)
if (setClasses)
    setColors(summary)
def classified = PathIO.readObjects(result)
def mine = nuclei.collectEntries { [it.getID(), it] }
int known = 0
for (nucleus in classified) {
    def object = mine[nucleus.getID()]
    if (object == null)
        continue
    def values = nucleus.getMeasurementList()
    for (marker in summary.markers.keySet()) {
        def measurement = "${marker} probability".toString()
        object.getMeasurementList().put(measurement, values.get(measurement))
    }
    if (setClasses)
        object.setPathClass(nucleus.getPathClass())
    known++
}
fireHierarchyUpdate()
println "${known} of ${nuclei.size()} nuclei are classified"
summary.warnings.each { println "  WARNING: ${it}" }

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

/** Give the classes the colours of the panel, parents first: QuPath makes up those of a class it has not met. */
void setColors(summary) {
    summary.calls.sort { it.key.count(':') }.each { name, row ->
        if (row.color != null)
            PathClass.fromString(name).setColor(ColorTools.packRGB(*row.color.collect { it as int }))
    }
}
